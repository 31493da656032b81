"""File names of pictures and sounds: the suffixes that Pillow and libsndfile read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from PIL import Image

IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
"""Pillow's format by suffix, of pictures that are written. Pillow knows it as well, but imports all
its formats to tell."""
WRITABLE_IMAGE_SUFFIXES = tuple(IMAGE_FORMATS)
"""Of pictures that are written."""

_IMAGE_NAMES = (
    "apng avif avifs blp bmp bw cur dcx dds dib fit fits flc fli ftc ftu gbr gif icb icns ico im "
    "j2c j2k jfif jif jp2 jpc jpe jpeg jpf jpg jpx msp pbm pcd pcx pfm pgm png pnm ppm psd pxr qoi "
    "ras rgb rgba sgi tga tif tiff vda vst webp xbm xpm"
)
_AUDIO_NAMES = (
    "aif aifc aiff au avr bwf caf flac htk ircam mp1 mp2 mp3 mpga nist oga ogg opus paf pvf rf64 "
    "sd2 sds sf snd sph svx voc w64 wav wave wve xi"
)
READABLE_IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in _IMAGE_NAMES.split())
"""All that Pillow decodes without the help of other programs."""
READABLE_AUDIO_SUFFIXES = frozenset(f".{suffix}" for suffix in _AUDIO_NAMES.split())
"""All that libsndfile decodes but `.mat`, `.iff` and `.raw`, which are seldom sounds."""


MediaContent: TypeAlias = "bytes | Path | Image.Image"
"""What a file holds, a file, or a picture that is decoded already."""


Background = Literal["auto", "white", "black"]
"""What shows through transparent pixels."""


AUDIO_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
"""What is written, by suffix: 16 bits in the first two, Vorbis in the last."""
