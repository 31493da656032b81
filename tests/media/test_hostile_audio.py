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


@pytest.mark.parametrize("lost", [1, 100, 5000])
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
        load_data(DataConfig(name=str(root), audio={"seconds": 0.5}))
