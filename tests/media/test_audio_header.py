"""Sounds whose header says too much, too little or nothing: the bytes that are there count."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from anytime_ar.errors import DataError
from anytime_ar.media.audio import AudioFile
from anytime_ar.media.audio_header import check_header

COUNT = 4096
WAVE = (np.sin(np.arange(COUNT) * 0.3) * 2**14).astype("<i2")
PCM = WAVE.tobytes()
BYTES = len(PCM)


def stored(kind: str, wave: np.ndarray = WAVE, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, 8000, format=kind, subtype=subtype)
    return file.getvalue()


def wav(riff: int, data: int, after: bytes = b"", before: bytes = b"", order: str = "<") -> bytes:
    name = b"RIFF" if order == "<" else b"RIFX"
    form = struct.pack(f"{order}IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    samples = PCM if order == "<" else WAVE.astype(">i2").tobytes()
    header = name + struct.pack(f"{order}I", riff) + b"WAVEfmt " + form + before
    return header + b"data" + struct.pack(f"{order}I", data) + samples + after


def count(content: bytes, tmp_path: Path, suffix: str = "wav") -> int:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    blocks = list(AudioFile(path, 8000).blocks())
    return sum(map(len, blocks))


def first(content: bytes, tmp_path: Path) -> np.ndarray:
    path = tmp_path / "x"
    path.write_bytes(content)
    return next(AudioFile(path, 8000).blocks()).numpy()


LIST = b"LIST" + struct.pack("<I", 4) + b"INFO"
SIZES = {
    "right": (36 + BYTES, BYTES),
    "ffmpeg": (0xFFFFFFFF, 0xFFFFFFFF),
    "sox": (0x7FFFF024, 0x7FFFF000),
    "arecord": (0x80000024, 0x80000000),
    "largest signed": (0x7FFFFFFF, 0x7FFFFFFF),
    "largest signed without its header": (0x7FFFFFFF, 0x7FFFFFFF - 36),
    "largest even": (0xFFFFFFFE, 0xFFFFFFFE - 36),
    "the size of the file": (44 + BYTES, BYTES),
    "the size of the file twice": (44 + BYTES, 44 + BYTES),
    "never filled in": (0, 0),
    "only RIFF filled in": (36 + BYTES, 0),
    "only data filled in": (0, BYTES),
    "RIFF of an empty file": (36, 0),
    "data with its header": (36 + BYTES, BYTES + 44),
    "a byte of padding": (36 + BYTES, BYTES + 1),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_wav(tmp_path: Path, name: str) -> None:
    assert count(wav(*SIZES[name]), tmp_path) == COUNT
    assert count(wav(*SIZES[name], order=">"), tmp_path) == COUNT
    before = b"bext" + struct.pack("<I", 602) + bytes(602)
    riff, data = SIZES[name]
    if riff < 2**31:
        more = 610 if data == riff > 0 else 0  # those who take the file for the samples
        assert count(wav(riff + 610, data + more, before=before), tmp_path) == COUNT


def test_what_follows_the_samples_is_not_read(tmp_path: Path) -> None:
    assert count(wav(36 + BYTES + 12, BYTES, LIST), tmp_path) == COUNT
    assert count(wav(36 + BYTES + 99, BYTES, LIST[:9]), tmp_path) == COUNT  # metadata is cut
    empty = wav(36, 0)[:44] + LIST
    with pytest.raises(DataError, match="holds no sound at all; copy or record it again"):
        count(empty, tmp_path)


@pytest.mark.parametrize("lost", [2, 9, 100, BYTES - 2, BYTES - 1, BYTES])
def test_wav_that_is_cut(tmp_path: Path, lost: int) -> None:
    with pytest.raises(DataError, match=r"is cut short, after \d+ samples; copy or record"):
        count(wav(36 + BYTES, BYTES)[:-lost], tmp_path)


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_files_that_are_cut(tmp_path: Path, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(-(2**13), 2**13, 40_000).astype(np.int16)
    content = stored(kind, noise)
    with pytest.raises(DataError, match=r"(is cut short, after|does not decode as a sound)"):
        count(content[: round(len(content) * share)], tmp_path, kind.lower())


Change = Callable[[bytearray, int], None]


def rf64(content: bytearray, size: int) -> None:
    for at in (0, 8, 16):
        place = content.index(b"ds64") + 8 + at
        content[place : place + 8] = (size % 2**64).to_bytes(8, "little")


def w64(content: bytearray, size: int) -> None:
    for place in (16, content.index(b"data") + 16):
        content[place : place + 8] = (size % 2**64).to_bytes(8, "little")


def aiff(content: bytearray, size: int) -> None:
    for place in (4, content.index(b"SSND") + 4, content.index(b"COMM") + 10):
        content[place : place + 4] = (size % 2**32).to_bytes(4, "big")


def au(content: bytearray, size: int) -> None:
    content[8:12] = (size % 2**32).to_bytes(4, "big")


def caf(content: bytearray, size: int) -> None:
    place = content.index(b"data") + 4
    content[place : place + 8] = (size % 2**64).to_bytes(8, "big")


def flac(content: bytearray, size: int) -> None:
    content[21] = content[21] & 0xF0 | (size >> 32) & 0x0F
    content[22:26] = (size % 2**32).to_bytes(4, "big")


LONG, SHORT = (0, -1, 2**63 - 1), (0, -1, 2**31 - 1, 2**31, 0x7F000000)
UNKNOWN: list[tuple[str, Change, tuple[int, ...]]] = [
    ("RF64", rf64, LONG),
    ("W64", w64, LONG),
    ("AIFF", aiff, (*SHORT, 8, 0x7F000008)),
    ("AU", au, SHORT),
    ("CAF", caf, LONG),
    ("FLAC", flac, (0, 2**36 - 1)),
]


@pytest.mark.parametrize(
    ("kind", "change", "size"),
    [(kind, change, size) for kind, change, sizes in UNKNOWN for size in sizes],
)
def test_sizes_that_nobody_filled_in(tmp_path: Path, kind: str, change: Change, size: int) -> None:
    content = bytearray(stored(kind))
    expected = first(bytes(content), tmp_path)
    change(content, size)
    assert count(bytes(content), tmp_path, kind.lower()) == COUNT
    assert np.array_equal(first(bytes(content), tmp_path), expected)


def test_flac_of_unknown_length_that_is_cut(tmp_path: Path) -> None:
    content = bytearray(stored("FLAC"))
    flac(content, 0)
    with pytest.raises(DataError, match="does not decode as a sound"):
        count(bytes(content)[:-500], tmp_path)


def test_mp3_without_a_tag_has_no_length_to_believe(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(40_000) * 0.3
    file = io.BytesIO()
    wave = np.concatenate([np.zeros(40_000), noise]).astype(np.float32)
    soundfile.write(file, wave, 44_100, format="MP3", bitrate_mode="VARIABLE",
                    compression_level=0.3)  # fmt: skip
    content = file.getvalue()
    assert b"Xing" in content
    bare = content[content.index(b"\xff\xfb", 4) :]
    path = tmp_path / "x.mp3"
    path.write_bytes(bare)
    assert AudioFile(path, 44_100).measure().num_samples > 79_000
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is cut short"):
        AudioFile(path, 44_100).measure()


def test_ogg_of_a_stream_that_was_left(tmp_path: Path) -> None:
    """It ends with a page, though not with the last."""
    noise = np.random.default_rng(0).standard_normal(80_000).astype(np.float32) * 0.3
    content = stored("OGG", noise)
    assert count(content[: content.rindex(b"OggS")], tmp_path, "ogg") > 60_000


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"])
def test_noise_within_headers_gives_a_sound_or_one_error(tmp_path: Path, kind: str) -> None:
    plain = stored(kind)
    for seed in range(60):
        generator = np.random.default_rng(seed)
        content = bytearray(plain)
        for _ in range(generator.integers(1, 5)):
            content[generator.integers(min(200, len(content)))] = generator.integers(256)
        if seed % 3 == 0:
            content = content[: generator.integers(len(content))]
        try:
            count(bytes(content), tmp_path)
        except DataError as error:
            told = str(error)
        else:
            told = ""
        assert "\n" not in told


@pytest.mark.parametrize("size", [20_000_000, 0, 0xFFFFFFFF])
def test_more_than_a_header_can_count(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.wav"
    with path.open("wb") as file:  # most of it takes no place on the disk
        file.write(wav(0, size))
        file.truncate(44 + 2**32 + 20_000_000)
    with pytest.raises(DataError, match="holds more than 4 GiB, which its header cannot count"):
        AudioFile(path, 8000).measure()


def test_a_disk_that_fails_is_told(tmp_path: Path, monkeypatch) -> None:
    opened = Path.open

    class Failing(io.BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            if self.tell() > 4000:
                raise OSError(5, "Input/output error")
            return super().read(count)

    def failing(path: Path, *args: str, **options: str) -> object:
        return Failing(stored("WAV")) if path.suffix == ".wav" else opened(path, *args, **options)

    path = tmp_path / "x.wav"
    path.touch()
    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(DataError, match=r"does not decode as a sound .*Input/output error"):
        AudioFile(path, 8000).measure()


@pytest.mark.parametrize("head", [b"RIFF", b"RF64", b"FORM", b"caff", b"riff", b".snd", b"OggS"])
def test_headers_of_nothing(head: bytes) -> None:
    for length in (0, 3, 8, 20, 60):
        for rest in (bytes(length), b"\xff" * length):
            content = io.BytesIO(head + rest)
            check = check_header(content)
            assert 0 <= check.start <= len(head + rest)
            assert content.tell() == 0
