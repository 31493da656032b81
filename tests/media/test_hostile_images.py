"""Images with malformed metadata, and pixel formats that Pillow widens."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytime_ar.errors import BrokenSampleError
from anytime_ar.media.image import decode_image, open_image, strip_metadata


def jpeg() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "jpeg")
    return file.getvalue()


@pytest.mark.parametrize("marker", [0xE0, 0xEE])
@pytest.mark.parametrize(
    "data",
    [b"", b"A", b"Adobe", b"Adobe\0", b"Adobe\0d\0\0", b"J", b"JFIF", b"JFIF\0", b"JFIF\0\1"],
)
@pytest.mark.parametrize("with_jfif", [False, True])
def test_short_application_data_of_jpeg(marker: int, data: bytes, with_jfif: bool) -> None:
    content = jpeg()
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data
    damaged = content[:2] + segment + content[2 if with_jfif else 20 :]
    expected, read = (np.asarray(open_image(each, "x")) for each in (content, damaged))
    assert np.array_equal(read, expected)


def png(levels: np.ndarray, color_type: int) -> bytes:
    """A PNG of 16 bits of shape [H, W, channels]."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = levels.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_16_bit_gray_with_alpha_has_one_channel() -> None:
    levels = np.zeros((4, 4, 2), dtype=np.uint16)
    levels[..., 0] = np.arange(16).reshape(4, 4) * 257 * 10
    levels[..., 1] = 65535
    content = png(levels, 4)
    assert open_image(content, "x").mode == "LA"
    pixels = decode_image(content, "x")
    assert pixels.shape == (1, 4, 4)
    assert np.array_equal(pixels[0], levels[..., 0] // 257)
    assert decode_image(content, "x", channels=3).shape == (3, 4, 4)
    levels[..., 1] = 0
    levels[0, 0, 1] = 65535
    over_white = decode_image(png(levels, 4), "x", background="white")
    assert (over_white[0].ravel()[1:] == 255).all()
    assert over_white[0, 0, 0] == 0


def test_16_bit_colour_with_alpha_keeps_three_channels() -> None:
    levels = np.full((4, 4, 4), 65535, dtype=np.uint16)
    assert decode_image(png(levels, 6), "x").shape == (3, 4, 4)


def test_a_long_damaged_file_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    header = b"IHDR" + struct.pack(">IIBBBBB", 1000, 1000, 8, 0, 0, 0, 0)
    with path.open("wb") as file:  # most of it takes no place on the disk
        file.write(b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + struct.pack(">I", zlib.crc32(header)))
        file.truncate(3_000_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(BrokenSampleError, match="does not decode as an image"):
            decode_image(path, "x")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_what_is_no_chunk_ends_a_png() -> None:
    header = b"\0\0\0\x0dIHDR" + bytes(17)
    assert strip_metadata(b"\x89PNG\r\n\x1a\n" + header + bytes(9000)) == (
        b"\x89PNG\r\n\x1a\n" + header
    )
