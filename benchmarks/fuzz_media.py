"""Generate hostile images, audio files and arrays.

    python benchmarks/fuzz_media.py runs/hostile --count 150 --seed 0

`fuzz_server` sends them to a server, and the tests give them to the readers of clients' samples.
They have odd formats, are damaged or truncated, have headers that promise more than there is, or
are decompression bombs.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, PngImagePlugin

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr", "LAB", "HSV")
"""Pillow modes of generated images."""
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "EPS")
"""Pillow formats of generated images."""
SOUNDS = ("WAV", "FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "RF64", "MP3")
"""libsndfile formats of generated audio."""
ENCODERS = ("OGG", "MP3")
"""Formats for which libsndfile crashes when it writes odd rates or numbers of channels."""
SIZES = (0, 1, 2, 7, 8, 2**15, 2**16 - 1, 20_000, 2**31 - 1, 2**31, 2**32 - 1)
"""Sizes to claim in headers, many at the limits of integers."""


def hostile_file(draw: random.Random) -> bytes:
    """Return a file of a random kind."""
    return draw.choice(_KINDS)(draw)


def _picture(draw: random.Random) -> bytes:
    """Return a small image of any mode and format, with metadata that may be invalid."""
    size = draw.choice((1, 3, 8, 60)), draw.choice((1, 3, 8, 60))
    image = Image.new("RGB", size, draw.choice(("red", "black", "white")))
    kind, mode, file = draw.choice(PICTURES), draw.choice(MODES), io.BytesIO()
    options: dict[str, object] = {}
    if draw.random() < 0.3:
        options["exif"] = b"Exif\0\0" + draw.randbytes(draw.randint(0, 80))
    if draw.random() < 0.3:
        options["icc_profile"] = draw.randbytes(draw.randint(0, 200))
    try:
        image.convert(mode).save(file, kind, **options)
    except (OSError, ValueError, KeyError, TypeError, SyntaxError, SystemError, struct.error):
        image.save(file, "PNG")  # Pillow cannot write this mode in this format
    return file.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    """Return a PNG chunk with a valid checksum."""
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def _png(draw: random.Random) -> bytes:
    """Return a PNG whose header claims any size, whatever data follows."""
    width, height = draw.choice(SIZES), draw.choice(SIZES)
    depth, colour = draw.choice((0, 1, 2, 4, 8, 16, 255)), draw.choice((0, 2, 3, 4, 6, 9))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, *draw.choices((0, 1, 9), k=3))
    parts = [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header)]
    if draw.random() < 0.5:
        names = (b"PLTE", b"tRNS", b"pHYs", b"gAMA", b"acTL", b"fcTL", b"eXIf", b"zTXt", b"iCCP")
        parts.append(_chunk(draw.choice(names), draw.randbytes(draw.randint(0, 40))))
    if draw.random() < 0.2:
        parts.append(_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**24))))
    rows = zlib.compress(bytes(draw.choice((0, 100, 2**20))))
    parts += [_chunk(b"IDAT", rows), _chunk(b"IEND", b"")]
    return b"".join(parts)


def _bomb(draw: random.Random) -> bytes:
    """Return a valid image of very many pixels in few bytes."""
    file = io.BytesIO()
    side = draw.choice((4097, 6000))
    text = PngImagePlugin.PngInfo()
    text.add_text("why", "x" * draw.randint(0, 1000))
    Image.new("1", (side, side)).save(file, draw.choice(("PNG", "GIF", "WEBP")), pnginfo=text)
    return file.getvalue()


def _sound(draw: random.Random) -> bytes:
    """Return short audio of any format, rate and number of channels."""
    file = io.BytesIO()
    kind, rate = draw.choice(SOUNDS), draw.choice((1, 8000, 44100, 2**31 - 1))
    channels, length = draw.choice((1, 2, 8, 200)), draw.choice((0, 1, 30, 48, 5000))
    if kind in ENCODERS:
        rate, channels = draw.choice((8000, 44100)), min(channels, 2)
    wave = np.full((length, channels), draw.choice((0.0, 0.5, 2.0)))
    try:
        soundfile.write(file, wave, rate, format=kind)
    except (soundfile.LibsndfileError, ValueError, TypeError):
        soundfile.write(file, np.zeros(48), 8000, format="WAV")
    return file.getvalue()


def _wav(draw: random.Random) -> bytes:
    """Return a WAV file with false sizes in its header."""
    channels, rate = draw.choice((0, 1, 2, 65535)), draw.choice(SIZES)
    bits, size = draw.choice((0, 1, 8, 16, 24, 32, 64, 65535)), draw.choice((0, 10, 96, 10_000))
    form = struct.pack(
        "<HHIIHH",
        draw.choice((0, 1, 3, 6, 7, 0xFFFE, 0xFFFF)),
        channels,
        rate,
        draw.choice(SIZES),
        draw.choice((0, 1, 2, 65535)),
        bits,
    )
    claimed = draw.choice((*SIZES, size))
    data = struct.pack("<4sI", b"data", claimed) + draw.randbytes(size)
    body = b"WAVE" + struct.pack("<4sI", b"fmt ", draw.choice((0, 16, 18, 2**31))) + form + data
    return struct.pack("<4sI", draw.choice((b"RIFF", b"RIFX", b"RF64")), draw.choice(SIZES)) + body


def _flac(draw: random.Random) -> bytes:
    """Return a FLAC file that claims any number of samples, sometimes with minutes of silence."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(draw.choice((48, 3_000_000))), 8000, format="FLAC")
    content = bytearray(file.getvalue())
    if draw.random() < 0.7:  # the number of samples is 36 bits of its first block
        content[21:26] = draw.randbytes(5)
    return bytes(content)


def _array(draw: random.Random) -> bytes:
    """Return an NPY file with an invalid or enormous shape in its header."""
    shape = draw.choice(
        ("(10**9,)", "(1, 8, 8)", "(99999999999999, 9)", "(-1,)", "()", "(1,", "'x'", "(" * 500)
    )
    kind = draw.choice(("'<f4'", "'<f8'", "'|O'", "'>f4'", "'|V4'", "'<U9'", "[('a', '<f4')]", "1"))
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    claimed = draw.choice((len(header), 0, 65535))
    body = np.full(64, draw.choice((0.0, 2.0, np.nan)), np.float32).tobytes()
    version = draw.choice((b"\x01\0", b"\x01\0", b"\x09\0"))
    return b"\x93NUMPY" + version + struct.pack("<H", claimed) + header + body


def _damaged(draw: random.Random) -> bytes:
    """Return a file that is truncated, has changed bytes, or has bytes appended."""
    content = bytearray(draw.choice((_picture, _png, _sound, _wav, _flac, _array))(draw))
    for _ in range(draw.randint(0, 6)):
        if content:
            content[draw.randrange(len(content))] = draw.randrange(256)
    end = draw.choice((len(content), draw.randint(0, len(content))))
    return bytes(content[:end]) + draw.randbytes(draw.choice((0, 0, 50)))


_KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    _picture,
    _png,
    _bomb,
    _sound,
    _wav,
    _flac,
    _array,
    _damaged,
    _damaged,
)
"""Generators of all kinds of files; damaged files are twice as likely."""


def main() -> None:
    """Write files of random kinds into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(options.seed)
    for number in range(options.count):
        (options.folder / f"{number:05}").write_bytes(hostile_file(draw))


if __name__ == "__main__":
    main()
