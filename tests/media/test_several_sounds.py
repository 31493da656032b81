"""Files that hold several sounds, or other data after the samples: nothing is left out silently."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from anytime_ar.data import DataConfig, load_data
from anytime_ar.errors import BrokenSampleError
from anytime_ar.media.audio import decode_audio_blocks
from anytime_ar.media.audio_header import check_header

RATE = 16_000
COUNT = 40_000
KINDS = ("WAV", "RF64", "W64", "AIFF", "AU", "CAF", "VOC", "FLAC", "OGG", "MP3")


def encoded(kind: str, subtype: str | None = None, seed: int = 0) -> bytes:
    wave = np.random.default_rng(seed).standard_normal(COUNT).astype(np.float32) * 0.1
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format=kind, subtype=subtype)
    return file.getvalue()


def length(content: bytes) -> int:
    return sum(len(wave) for wave, _ in decode_audio_blocks(content, "x"))


def refused(content: bytes, why: str) -> None:
    with pytest.raises(BrokenSampleError, match=f"^x: {why}") as caught:
        length(content)
    assert "\n" not in str(caught.value)


SEVERAL = "holds several sounds, expected one; store each in a file of its own"
MORE = "is longer than its header declares, by data that may be sound; repair"


@pytest.mark.parametrize("kind", KINDS)
def test_two_sounds_one_after_the_other(kind: str) -> None:
    assert abs(length(encoded(kind)) - COUNT) < 3000
    refused(encoded(kind) + encoded(kind, seed=1), SEVERAL)


def test_a_chained_ogg_of_opus_and_vorbis() -> None:
    refused(encoded("OGG", "OPUS") + encoded("OGG"), SEVERAL)
    refused(encoded("OGG") + bytes(5000) + encoded("OGG"), SEVERAL)


def test_two_ogg_streams_at_once() -> None:
    """Their first pages come first."""
    one, two = encoded("OGG"), encoded("OGG", seed=1)
    first = one.index(b"OggS", 4)
    second = two.index(b"OggS", 4)
    refused(one[:first] + two[:second] + one[first:] + two[second:], SEVERAL)


def test_an_ogg_with_a_stream_of_other_data() -> None:
    """As with Ogg Skeleton: it is no sound."""
    sound = encoded("OGG")
    page = (
        b"OggS\0\2" + bytes(8) + struct.pack("<III", 7, 0, 0) + b"\1\x40" + b"fishead\0".ljust(64)
    )
    assert check_header(io.BytesIO(page + sound)).problem is None


def test_several_sounds_of_a_writer_to_a_pipe() -> None:
    """The second header would be read as samples."""
    part = bytearray(encoded("WAV"))
    part[4:8] = part[40:44] = b"\xff" * 4
    assert length(bytes(part)) == COUNT
    refused(bytes(part) * 2, SEVERAL)


@pytest.mark.parametrize("kind", ["WAV", "RF64", "AIFF", "AU"])
@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\n",
        bytes(9000),
        b"ID3\4\0\0\0\0\x7f\0" + b"x" * 9000,
        b"TAG" + b"x" * 125,
        b"APETAGEX" + b"x" * 3000,
    ],
    ids=["nothing", "a line", "zeros", "ID3v2", "ID3v1", "APE"],
)
def test_tails_that_are_no_sound(kind: str, tail: bytes) -> None:
    assert length(encoded(kind) + tail) == COUNT


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("lost", [0, 500])
def test_chunks_after_the_samples(odd: bool, lost: int) -> None:
    """Some writers leave out the byte of padding; metadata that are cut are no samples."""
    samples = np.random.default_rng(0).integers(0, 255, COUNT + odd, dtype=np.uint8).tobytes()
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, RATE, 1, 8)
    text = b"LIST" + struct.pack("<I", 4000) + b"INFO" + b"y" * 3996
    body = b"WAVE" + form + b"data" + struct.pack("<I", len(samples)) + samples + text
    content = b"RIFF" + struct.pack("<I", len(body)) + body
    assert length(content[: len(content) - lost]) == COUNT + odd


@pytest.mark.parametrize(
    "tail",
    [bytes(4096), b"ID3\4\0\0\0\0\x7f\0" + b"x" * 9000, b"TAG" + b"x" * 125, b"\r\n", b""],
    ids=["zeros", "ID3v2", "ID3v1", "a line", "nothing"],
)
def test_tails_after_chunks_after_the_samples(tail: bytes) -> None:
    text = b"LIST" + struct.pack("<I", 4000) + b"INFO" + b"y" * 3996
    assert length(encoded("WAV") + text + tail) == COUNT
    assert (
        length(
            encoded("WAV") + text + b"id3 " + struct.pack("<I", 2001) + b"z" * 2001 + b"\0" + tail
        )
        == COUNT
    )


@pytest.mark.parametrize("kind", ["WAV", "RF64", "AIFF", "AU"])
def test_a_header_from_before_the_end_of_the_recording(kind: str) -> None:
    content = encoded(kind)
    longer = content + np.random.default_rng(1).bytes(9000)
    refused(longer, MORE)


NOISE = np.random.default_rng(2).bytes(5001)
ODD_NAMES = [b"\0\0\0\0", b"ab\0\0", b"\xe9tat", b"\xff\xff\xff\xff", b"a\nb ", b"axml"]
XMP = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta>' + b" " * 5000


def chunk(name: bytes, body: bytes, kind: str) -> bytes:
    if kind == "W64":
        padding = bytes(-len(body) % 8)
        return name + bytes(12) + struct.pack("<Q", 24 + len(body)) + body + padding
    sizes = {"AIFF": ">I", "CAF": ">Q"}
    padding = bytes(len(body) % 2 if kind != "CAF" else 0)
    return name + struct.pack(sizes.get(kind, "<I"), len(body)) + body + padding


def with_file_size(content: bytes, size: int, kind: str) -> bytes:
    return content[:4] + struct.pack(">I" if kind == "AIFF" else "<I", size) + content[8:]


@pytest.mark.parametrize("kind", ["WAV", "RF64", "AIFF", "CAF", "W64"])
@pytest.mark.parametrize("name", ODD_NAMES)
def test_chunks_with_any_name(kind: str, name: bytes) -> None:
    content, extra = encoded(kind), chunk(name, NOISE, kind)
    samples = content.index(b"SSND" if kind == "AIFF" else b"data")
    sizes = (None, 0, 2**32 - 1) if kind in ("WAV", "AIFF") else (None,)
    for changed in (content[:samples] + extra * 3 + content[samples:], content + extra):
        for size in sizes:
            sized = changed if size is None else with_file_size(changed, size, kind)
            assert length(sized) == COUNT


def test_thousands_of_chunks_take_bounded_time() -> None:
    content = encoded("WAV")
    extra = chunk(b"\xe9tat", b"abc", "WAV") * 4000
    assert length(content[:36] + extra + content[36:]) == COUNT


@pytest.mark.parametrize("kind", ["WAV", "AIFF"])
@pytest.mark.parametrize("size", [None, 0, 2**32 - 1])
@pytest.mark.parametrize(
    "tail",
    [XMP, b"a text\n" * 500, b"\xff" * 5000, chunk(b"id3 ", NOISE, "WAV")[:-900]],
    ids=["XMP", "text", "ones", "cut id3"],
)
def test_what_follows_the_samples_of_a_header_without_a_file_size(
    kind: str, size: int | None, tail: bytes
) -> None:
    content = encoded(kind) + tail
    assert length(content if size is None else with_file_size(content, size, kind)) == COUNT


@pytest.mark.parametrize("kind", ["WAV", "AIFF"])
def test_what_the_size_of_the_file_counts_after_the_samples(kind: str) -> None:
    content = encoded(kind) + NOISE
    assert length(with_file_size(content, len(content) - 8, kind)) == COUNT
    several = encoded(kind) * 2
    refused(with_file_size(several, len(several) - 8, kind), SEVERAL)


def test_bw64_is_rf64() -> None:
    assert length(b"BW64" + encoded("RF64")[4:]) == COUNT
    refused((b"BW64" + encoded("RF64")[4:]) * 2, SEVERAL)


@pytest.mark.parametrize("kind", ["WAV", "RF64", "AIFF", "AU", "CAF", "FLAC", "OGG"])
def test_tags_before_any_sound(kind: str) -> None:
    tag = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    assert length(tag + encoded(kind)) == COUNT
    refused(tag + encoded(kind) * 2, SEVERAL)


def test_a_flac_that_keeps_the_header_of_a_wav() -> None:
    """`flac --keep-foreign-metadata` stores it in a block."""
    content = encoded("FLAC")
    block = b"riff" + encoded("WAV")[:44]
    kept = content[:42] + b"\2" + len(block).to_bytes(3, "big") + block + content[42:]
    assert not content[4] & 0x80  # other blocks follow the first
    assert length(kept) == COUNT


def test_frames_that_the_tag_of_an_mp3_does_not_count() -> None:
    content = encoded("MP3")
    frames = content[content.index(content[:2], 40) :]  # without the frame of the tag
    alone = length(frames)
    assert length(frames * 2) > 1.9 * alone  # without a tag, all are read
    assert length(frames + content) > 1.9 * alone
    refused(content + frames, SEVERAL)
    refused(content + b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + frames, SEVERAL)


@pytest.mark.parametrize("tail", [b"TAG" + b"x" * 125, b"APETAGEX" + b"x" * 9000, bytes(9000)])
def test_tags_after_an_mp3(tail: bytes) -> None:
    assert length(encoded("MP3") + tail) == COUNT


@pytest.mark.parametrize("bitrate", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_mp3_is_one_sound(bitrate: str, rate: int, channels: int) -> None:
    wave = np.random.default_rng(0).standard_normal((COUNT, channels)) * 0.1
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="MP3", bitrate_mode=bitrate, compression_level=0.5)
    assert length(file.getvalue()) == COUNT
    refused(file.getvalue() * 2, SEVERAL)


def test_a_data_set_leaves_such_a_file_out_and_says_so(tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / f"{i}.ogg").write_bytes(encoded("OGG", seed=i))
    (tmp_path / "5.ogg").write_bytes(encoded("OGG") * 2)
    settings = {"name": str(tmp_path), "audio": {"seconds": 0.5}, "validation_fraction": 0.2}
    with pytest.raises(BrokenSampleError, match=r"5\.ogg: holds several sounds"):
        load_data(DataConfig(**settings))
    with pytest.warns(UserWarning, match=r"left out 1 broken samples: .*5\.ogg: holds several"):
        load_data(DataConfig(**settings, skip_broken=True))


def test_many_first_pages_take_bounded_time() -> None:
    page = b"OggS\0\2" + bytes(20) + b"\0"
    assert check_header(io.BytesIO(page * 100_000)).problem == "several sounds"
