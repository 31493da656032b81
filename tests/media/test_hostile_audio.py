"""Audio headers that lie, formats of old computers, and bytes behind the last sample."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from anytime_ar.data import DataConfig, load_data
from anytime_ar.errors import BrokenSampleError, DataError
from anytime_ar.media.audio import AudioFile, decode_audio_blocks

RATE = 8000


def tone(samples: int = 8000, channels: int = 1) -> np.ndarray:
    wave = np.sin(np.arange(samples) / 20).astype(np.float32) * 0.5
    return np.stack([wave] * channels, axis=1)


def encoded(kind: str, subtype: str | None = None, *, channels: int = 1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(channels=channels), RATE, format=kind, subtype=subtype)
    return file.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.concatenate([wave for wave, _ in decode_audio_blocks(content, "x")])


def with_rate(content: bytes, rate: int) -> bytes:
    """A WAV whose header declares another sample rate."""
    return content[:24] + struct.pack("<I", rate) + content[28:]


def folder(root: Path, odd: bytes) -> Path:
    root.mkdir()
    for i in range(20):
        (root / f"{i:02}.wav").write_bytes(encoded("WAV"))
    (root / "03.wav").write_bytes(odd)
    return root


# Sample rates


@pytest.mark.parametrize("rate", [0, 1, 99, 1_000_001, 2**31 - 1])
def test_a_sample_rate_that_no_recording_has(tmp_path: Path, rate: int) -> None:
    root = folder(tmp_path / "set", with_rate(encoded("WAV"), rate))
    tracemalloc.start()
    try:
        for audio in ({"sample_rate": RATE, "seconds": 0.5}, {"seconds": 0.5}):
            with pytest.raises(DataError, match=r"03\.wav: (its header declares|does not decode)"):
                load_data(DataConfig(name=str(root), audio=audio))
        with pytest.raises(DataError, match=r"03\.wav: (its header declares|does not decode)"):
            AudioFile(root / "03.wav", RATE).measure()
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    audio = {"sample_rate": RATE, "seconds": 0.5}
    with pytest.warns(UserWarning, match="left out 1 broken samples: .*03"):
        load_data(DataConfig(name=str(root), audio=audio, skip_broken=True))


@pytest.mark.parametrize("rate", [100, 1_000_000])
def test_only_what_is_needed_is_kept_of_a_recording(tmp_path: Path, rate: int) -> None:
    root = folder(tmp_path / "set", with_rate(encoded("WAV"), rate))
    config = DataConfig(name=str(root), audio={"sample_rate": 48_000, "seconds": 0.5})
    tracemalloc.start()
    try:
        # 8,000 samples of 100 Hz are 3,840,000 of 48 kHz.
        assert load_data(config).sample_shape == (1, 24_000)
        assert tracemalloc.get_traced_memory()[1] < 6_000_000
    finally:
        tracemalloc.stop()


def test_resampled_in_parts_as_in_one_piece(tmp_path: Path) -> None:
    import soxr

    path = tmp_path / "x.wav"
    path.write_bytes(with_rate(encoded("WAV"), 100))
    blocks = [block.numpy() for block in AudioFile(path, 48_000).blocks()]
    assert max(map(len, blocks)) < 2**19  # soxr holds back some input
    whole = soxr.resample(decoded(path.read_bytes()), 100, 48_000)
    assert np.array_equal(np.concatenate(blocks), whole)


def test_the_peak_is_that_of_the_whole_recording(tmp_path: Path) -> None:
    wave = np.zeros(200_000, dtype=np.float32)
    wave[:4000] = tone(4000)[:, 0] * 0.2
    wave[-1000:] = 0.8
    root = tmp_path / "set"
    root.mkdir()
    for i in range(20):
        soundfile.write(root / f"{i:02}.wav", wave, RATE)
    data = load_data(DataConfig(name=str(root), audio={"seconds": 0.5}))
    loudest = float(next(data.train.batches(1)).data.abs().max())
    assert loudest == pytest.approx(0.1 * 0.95 / 0.8, abs=1e-3)


def test_a_recording_shorter_than_one_sample(tmp_path: Path) -> None:
    file = io.BytesIO()
    soundfile.write(file, tone(1), 192_000, format="WAV")
    root = folder(tmp_path / "set", file.getvalue())
    config = DataConfig(name=str(root), audio={"sample_rate": 8000})
    with pytest.raises(DataError, match=r"03\.wav: is shorter than one sample at 8000 Hz"):
        load_data(config)


def test_many_channels_are_decoded_in_short_blocks() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((20_000, 500), dtype=np.int16), RATE, format="WAV")
    tracemalloc.start()
    try:
        assert len(decoded(file.getvalue())) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


# FLAC


@pytest.mark.parametrize(
    "tail",
    [b"TAG" + bytes(125), b"\0", bytes(4096), b"\xff\xf8" * 50, b"APETAGEX" + bytes(24)],
    ids=["ID3v1", "a zero", "zeros", "sync codes", "APE"],
)
def test_bytes_after_a_complete_flac(tail: bytes) -> None:
    content = encoded("FLAC")
    assert np.array_equal(decoded(content + tail), decoded(content))


@pytest.mark.parametrize("lost", [1, 100, 3000])
@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\0\x0a" + bytes(10)], ids=["plain", "ID3v2"])
def test_a_flac_that_is_cut_is_refused_with_or_without_a_tag(lost: int, tag: bytes) -> None:
    content = tag + encoded("FLAC")
    assert len(decoded(content)) == 8000
    with pytest.raises(BrokenSampleError, match=r"cut short|does not decode as a sound"):
        decoded(content[:-lost])


# Old formats

SIZED = [
    ("AVR", "PCM_S8", 1), ("AVR", "PCM_16", 2), ("MPC2K", "PCM_16", 1), ("MPC2K", "PCM_16", 2),
    ("NIST", "PCM_16", 1), ("NIST", "PCM_24", 2), ("NIST", "ULAW", 1), ("SDS", "PCM_S8", 1),
    ("SDS", "PCM_16", 1), ("SDS", "PCM_24", 1), ("SVX", "PCM_S8", 1), ("SVX", "PCM_16", 1),
    ("VOC", "PCM_U8", 1), ("VOC", "PCM_16", 2), ("VOC", "ULAW", 1), ("WVE", "ALAW", 1),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "subtype", "channels"), SIZED)
def test_old_formats_that_are_cut(kind: str, subtype: str, channels: int) -> None:
    content = encoded(kind, subtype, channels=channels)
    assert len(decoded(content)) in (8000, 8001)  # libsndfile counts the end of VOC's μ-law
    if kind != "VOC":  # where other blocks may follow
        assert len(decoded(content + bytes(64))) >= 8000
    for share in (0.5, 0.9, 0.99):
        with pytest.raises(BrokenSampleError, match=r"cut short|does not decode as a sound"):
            decoded(content[: int(share * len(content))])


def patched(at: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + new + content[at + len(new) :]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("NIST", lambda c: c.replace(b"sample_count -i 8000", b"sample_cnt   -i 8000")),
        ("VOC", patched(27, b"\xff\xff\xff")),
        ("AVR", patched(26, b"\0\0\0\0")),
        ("AVR", patched(26, b"\xff\xff\xff\xff")),
    ],
    ids=["NIST", "VOC", "AVR none", "AVR most"],
)
def test_old_headers_without_a_size_are_not_judged(
    kind: str, change: Callable[[bytes], bytes]
) -> None:
    assert len(decoded(change(encoded(kind, "PCM_16")))) in (8000, 8001)


@pytest.mark.parametrize(
    "head",
    [
        b"Crea", b"Creative Voice File\x1a\x1a\0", b"NIST_1A\n", b"NIST_1A\n   1024\n", b"2BIT",
        b"ALaw", b"\xf0\x7e\0\x01", b"\x01\x04", b"FORM\0\0\0\x088SVX",
    ],
)  # fmt: skip
def test_old_headers_of_nothing(head: bytes) -> None:
    with pytest.raises(BrokenSampleError):
        decoded(head)
    with pytest.raises(BrokenSampleError):
        decoded(head + bytes(200))


# MPEG audio


def mp3(rate: int, *, tag: bool, bitrate_mode: str = "CONSTANT") -> bytes:
    file = io.BytesIO()
    wave = np.random.default_rng(0).standard_normal(rate) * 0.1
    soundfile.write(
        file, wave, rate, format="MP3", bitrate_mode=bitrate_mode, compression_level=0.5
    )
    content = file.getvalue()
    return content if tag else content[mp3_frame_bytes(content[:4]) :]


def mp3_frame_bytes(header: bytes) -> int:
    """The size of a frame of layer 3."""
    kbits = {
        3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
        2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    }
    version = header[1] >> 3 & 3
    rate = [44_100, 48_000, 32_000][header[2] >> 2 & 3] / {3: 1, 2: 2, 0: 4}[version]
    samples = 1152 if version == 3 else 576
    seconds = samples / rate
    return int(seconds * 125 * kbits[max(version, 2)][(header[2] >> 4) - 1]) + (header[2] >> 1 & 1)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize("level", [0.2, 0.8])
def test_an_mp3_without_a_tag_is_read_to_its_end(rate: int, mode: str, level: float) -> None:
    """libsndfile takes all frames to be as large as the first, and stops after that many samples.

    Both decoder and encoder delay the sound.
    """
    for wave in (noise_then_silence(rate), noise_then_silence(rate)[::-1]):
        file = io.BytesIO()
        soundfile.write(file, wave, rate, format="MP3", bitrate_mode=mode, compression_level=level)
        content = file.getvalue()
        bare = content[mp3_frame_bytes(content[:4]) :]
        frames = at = 0
        while at < len(bare):
            at += mp3_frame_bytes(bare[at : at + 4])
            frames += 1
        assert at == len(bare)
        found = decoded(bare)
        assert len(found) == frames * (1152 if rate >= 32_000 else 576) - 529
        shifted = np.lib.stride_tricks.sliding_window_view(found, len(wave))
        assert np.abs(shifted[(shifted @ wave).argmax()] - wave).mean() < 0.05


def noise_then_silence(rate: int) -> np.ndarray:
    wave = tone(2 * rate)[:, 0].copy()
    wave[: rate // 2] += np.random.default_rng(0).standard_normal(rate // 2) * 0.05
    wave[-rate:] *= 0.01
    return wave


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("cut", [1, 2, 50, 300, 2000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_that_begins_within_a_frame(rate: int, cut: int, mode: str) -> None:
    content = mp3(rate, tag=False, bitrate_mode=mode)
    whole = len(decoded(content))
    # libsndfile may leave out frames that refer to the ones before them.
    lost = round(cut / len(content) * whole)
    assert whole - lost - 4 * 1152 < len(decoded(content[cut:])) <= whole


@pytest.mark.parametrize("tag", [True, False])
@pytest.mark.parametrize(
    "junk",
    [
        bytes(10),
        bytes(3000),
        b"x" * 100,
        b"\xff" * 7,
        b"\xff\xfb" * 3,
        b"RIFF",
        b"ID3\4\0\0\0\0\0\x0a" + bytes(10 + 500),
        (b"ID3\4\0\0\0\0\0\x0a" + bytes(10)) * 2,
    ],
    ids=["zeros", "many zeros", "text", "ones", "sync codes", "RIFF", "padded ID3v2", "two ID3v2"],
)
def test_bytes_before_the_first_frame_of_an_mp3(junk: bytes, tag: bool) -> None:
    content = mp3(16_000, tag=tag)
    assert np.array_equal(decoded(junk + content), decoded(content))


def test_the_tag_of_an_mp3_is_found_behind_a_long_picture() -> None:
    content = b"ID3\4\0\0\0\x06\0\0" + bytes(6 << 14) + mp3(16_000, tag=True)
    assert len(decoded(content)) == 16_000
    with pytest.raises(BrokenSampleError, match="is cut short"):
        decoded(content[:-5000])


def test_an_mp3_in_a_wav_has_no_length_to_believe() -> None:
    frames = mp3(16_000, tag=False)
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 16_000, 4000, 1, 0, 12, 1, 2, 288, 1, 0)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"fact" + struct.pack("<II", 4, 20_000) + b"data" + struct.pack("<I", len(frames))
    content = b"RIFF" + struct.pack("<I", len(body) + len(frames)) + body + frames
    assert len(decoded(content)) == len(decoded(frames)) + 529
    with pytest.raises(BrokenSampleError, match="is cut short"):
        decoded(content[:-500])


@pytest.mark.parametrize("head", [b"\xff\xfb\x90\0", b"\xff\xe3\x2a\xc4", b"\xff\xff\x1f\xff"])
def test_many_false_frames_take_bounded_time(head: bytes) -> None:
    with pytest.raises(BrokenSampleError):
        decoded(b"x" + head * 500_000)


# Formats that are not read


FORM = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 0x161, 1, 8000, 8000, 1, 8) + b"data"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"OggS\0\2" + bytes(20) + b"\x01\x33\x7fFLAC\1\0", "Ogg FLAC"),
        (b"OggS\0\2" + bytes(20) + b"\x01\x50Speex   1.2", "Ogg Speex"),
        (b"OggS\0\2" + bytes(20) + b"\x01\x40\x80theora", "Ogg without a sound"),
        (b"\0\0\0\x20ftypM4A ", r"MP4 \(AAC or ALAC\)"),
        (b"\xff\xf1\x50\x80", "AAC"),
        (b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + b"\xff\xf1\x50\x80", "AAC"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA"),
        (b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
        (b"#!AMR\n", "AMR"),
        (
            b"RIFF" + struct.pack("<I", 4036) + FORM + struct.pack("<I", 4000),
            "WAV with codec 0x0161",
        ),
    ],
)
def test_formats_that_are_not_read_are_named(content: bytes, name: str) -> None:
    expected = rf"^x: is {name}, which is not read; convert it to WAV or FLAC$"
    with pytest.raises(BrokenSampleError, match=expected):
        decoded(content + bytes(4000))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("other", [b"fishead\0", b"\x80theora"])
def test_an_ogg_whose_first_stream_is_no_sound(subtype: str, other: bytes) -> None:
    content = encoded("OGG", subtype)
    first = content.index(b"OggS", 4)
    page, last = ogg_page(2, other.ljust(64)), ogg_page(4, b"the end")
    for before, after in ((page, b""), (page, last), (b"", page), (b"", page + last)):
        changed = before + content[:first] + after + content[first:]
        assert np.array_equal(decoded(changed), decoded(content))


def ogg_page(kind: int, packet: bytes) -> bytes:
    page = b"OggS\0" + struct.pack("<BqIIIBB", kind, 0, 99, 0, 0, 1, len(packet)) + packet
    check = 0
    for byte in page:
        check ^= byte << 24
        for _ in range(8):
            check = (check << 1 ^ (0x04C11DB7 if check >> 31 else 0)) & 0xFFFFFFFF
    return page[:22] + struct.pack("<I", check) + page[26:]


def test_a_format_without_a_sample_rate_is_refused(tmp_path: Path) -> None:
    # Written at 8 kHz, it would be read as 44.1 kHz, and resampled to 18 % of its length.
    root = folder(tmp_path / "set", encoded("XI", "DPCM_16"))
    config = DataConfig(name=str(root), audio={"sample_rate": RATE, "seconds": 0.5})
    with pytest.raises(DataError, match=r"03\.wav: is XI, which stores no sample rate; convert"):
        load_data(config)


def test_a_suffix_whose_files_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", encoded("WAV"))
    (root / "x.sd2").write_bytes(bytes(100))
    with pytest.warns(UserWarning, match=r"left out 1 files that are no samples: 1 x \.sd2"):
        data = load_data(DataConfig(name=str(root), audio={"seconds": 0.5}))
    assert sum(split.size for split in (data.train, data.validation, data.test)) == len(
        list(root.rglob("*.wav"))
    )
