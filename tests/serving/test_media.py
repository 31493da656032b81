"""Samples of clients: what cannot be read is their mistake, told in a sentence."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from serving_fakes import tiny_bundle

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel
from anytime_ar.serving.media import MediaProcessor, processor_for

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_media.py"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MediaProcessor]:
    costs = tmp_path_factory.mktemp("costs") / "costs.json"
    return {
        kind: processor_for(AnytimeModel(tiny_bundle(kind), device="cpu", cost_model_path=costs))
        for kind in ("image", "colour", "sound")
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
        ("sound", b"", "does not decode as a sound"),
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
