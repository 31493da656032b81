"""Samples of strangers and of this machine: what cannot be read is told in a sentence."""

from __future__ import annotations

import contextlib
import io
import math
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from anytime_ar.errors import InputError
from anytime_ar.media.audio import encode_audio
from anytime_ar.media.processor import MediaProcessor, processor_for

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_media.py"


@pytest.fixture(scope="module")
def media() -> dict[str, MediaProcessor]:
    return {
        "image": processor_for((1, 8, 8)),
        "colour": processor_for((3, 8, 8)),
        "sound": processor_for((1, 48), 8000, "none"),
    }


def png(width: int, height: int, *, depth: int = 8) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def wav(rate: int = 8000, channels: int = 1, length: int = 48) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((length, channels)), rate, format="WAV")
    return file.getvalue()


def flac(length: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(length), 8000, format="FLAC")
    return file.getvalue()


def npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode()


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("image", png(20_000, 20_000), "has too many pixels; send at most 16777216"),
        ("image", png(2**31 - 1, 2**31 - 1), "pixels"),
        ("image", png(5000, 5000), "5000 x 5000 are too many pixels"),
        ("colour", png(8, 8, depth=9), "cannot be read as an image; send png"),
        ("image", png(0, 8), "cannot be read as an image; send png"),
        ("image", b"", "cannot be read as an image; send png"),
        (
            "image",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "cannot be read as an image",
        ),
        ("image", wav(), "cannot be read as an image"),
        ("sound", png(8, 8), "does not decode as a sound"),
        ("sound", b"", "holds no sound at all; copy or record it again"),
        ("sound", wav(rate=44100), "has 44100 Hz; resample it to 8000 Hz"),
        ("sound", wav(length=49), "has more than 48 samples; cut it to that"),
        ("sound", wav()[:20], "does not decode as a sound"),
        ("sound", b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\x7f" + bytes(60), "sound"),
        ("image", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10**9, 99)}"), "npy"),
        ("image", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9" + "9" * 12), "npy"),
        ("image", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"), "npy"),
        ("image", npy("(" * 900), "npy"),
    ],
)
def test_what_cannot_be_read_is_told(
    media: dict[str, MediaProcessor], kind: str, content: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=r"samples\.0: ") as told:
        media[kind].from_bytes(content, "samples.0")
    assert message in str(told.value)
    assert "\n" not in str(told.value)


def test_what_is_small_takes_little_memory_whatever_it_holds(
    media: dict[str, MediaProcessor],
) -> None:
    bombs = [("sound", flac(8000 * 600)), ("image", png(2**15, 2**15))]
    file = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(file, "PNG")
    bombs.append(("image", file.getvalue()))
    tracemalloc.start()
    for kind, bomb in bombs:
        assert len(bomb) < 2**17
        with pytest.raises(InputError):
            media[kind].from_bytes(bomb, "samples.0")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


# soundfile's callbacks are asked to go before the beginning of a broken file, and say so.
@pytest.mark.filterwarnings("ignore:Exception ignored from cffi callback")
@pytest.mark.parametrize("seed", range(4))
def test_hostile_files_are_read_or_told(
    media: dict[str, MediaProcessor], seed: int, tmp_path: Path
) -> None:
    command = [sys.executable, SCRIPT, tmp_path, "--seed", str(seed), "--count", "150"]
    subprocess.run(command, check=True)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 150
    for file in files:
        content = file.read_bytes()
        for kind, one in media.items():
            with contextlib.suppress(InputError):
                sample = one.from_bytes(content, "samples.0")
                assert sample.shape == one.sample_shape, (seed, file.name, kind)
                assert sample.isfinite().all(), (seed, file.name, kind)


def test_own_files_are_read_as_those_of_strangers(
    media: dict[str, MediaProcessor], tmp_path: Path
) -> None:
    clip = torch.linspace(-0.4, 0.5, 40)
    path = tmp_path / "clip.wav"
    path.write_bytes(encode_audio(clip[None, None], 8000)[0])
    loud = processor_for((1, 48), 8000, "peak")
    for one, level in ((media["sound"], 1.0), (loud, 0.95 / 0.5)):
        sample = one.read(path)
        assert sample.shape == (1, 48)
        assert torch.equal(sample, one.from_bytes(path.read_bytes(), "clip"))
        assert (sample[0, :40] - level * clip).abs().max() < 1e-4
        assert not sample[0, 40:].any()
    picture = tmp_path / "picture.png"
    Image.new("RGB", (20, 10), "red").save(picture)
    for kind in ("image", "colour"):
        sample = media[kind].read(picture)
        assert sample.shape == media[kind].sample_shape
        assert torch.equal(sample, media[kind].from_bytes(picture.read_bytes(), "picture"))


def test_only_own_files_are_resampled(media: dict[str, MediaProcessor], tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(wav(rate=16_000, length=96))
    assert media["sound"].read(path).shape == (1, 48)
    path.write_bytes(wav(rate=16_000, length=200))
    with pytest.raises(
        InputError,
        match=r"clip\.wav: has 100 samples at 8000 Hz, .* each may have 48; encode it alone",
    ):
        media["sound"].read(path)


@pytest.mark.parametrize("kind", ["image", "colour", "sound"])
def test_samples_become_files_in_all_formats_and_return(
    media: dict[str, MediaProcessor], kind: str
) -> None:
    one = media[kind]
    samples = torch.linspace(-1, 0.99, 2 * math.prod(one.sample_shape)).view(2, *one.sample_shape)
    for format in one.formats:
        files = one.to_bytes(samples, format)
        assert len(files) == 2
        for sample, content in zip(samples, files, strict=True):
            error = (one.from_bytes(content, "sample") - sample).abs().max()
            assert error <= (0 if format == "npy" else 1 / 255)


def test_samples_of_other_channels_are_arrays(tmp_path: Path) -> None:
    media = processor_for((2, 8, 8))
    assert (media.formats, media.suffixes) == (("npy",), (".npy",))
    sample = torch.linspace(-1, 1, 128).view(2, 8, 8)
    (content,) = media.to_bytes(sample[None], "npy")
    assert torch.equal(media.from_bytes(content, "it"), sample)
    with pytest.raises(InputError, match="it: has no npy array of 2 channels; send npy"):
        media.from_bytes(png(8, 8), "it")
    np.save(tmp_path / "x.npy", sample[None].expand(3, -1, -1, -1).numpy())
    assert torch.equal(media.read_array(tmp_path / "x.npy"), sample.expand(3, 2, 8, 8))
    with pytest.raises(InputError, match=r"samples of 2 channels are no images; pass \.npy files"):
        media.read(tmp_path / "x.png")
    with pytest.raises(InputError, match="No such file"):
        media.read_array(tmp_path / "none.npy")
