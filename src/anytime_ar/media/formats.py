"""List the file suffixes of images and audio that Pillow and libsndfile support."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from PIL import Image

IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
"""Pillow's format of each writable suffix. Pillow has this table as well, but imports all its
formats to fill it."""
WRITABLE_IMAGE_SUFFIXES = tuple(IMAGE_FORMATS)
"""Suffixes of images that can be written."""

_IMAGE_NAMES = (
    "apng avif avifs blp bmp bw cur dcx dds dib fit fits flc fli ftc ftu gbr gif icb icns ico im "
    "j2c j2k jfif jif jp2 jpc jpe jpeg jpf jpg jpx msp pbm pcd pcx pfm pgm png pnm ppm psd pxr qoi "
    "ras rgb rgba sgi tga tif tiff vda vst webp xbm xpm"
)
_AUDIO_NAMES = (
    "aif aifc aiff au avr bwf caf flac htk ircam mp1 mp2 mp3 mpga nist oga ogg opus paf pvf rf64 "
    "sds sf snd sph svx voc w64 wav wave wve"
)
READABLE_IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in _IMAGE_NAMES.split())
"""Suffixes of images that Pillow decodes without other programs."""
READABLE_AUDIO_SUFFIXES = frozenset(f".{suffix}" for suffix in _AUDIO_NAMES.split())
"""Suffixes of audio that libsndfile decodes, without `.mat`, `.iff` and `.raw`, which are seldom
audio, `.sd2`, whose header is in a resource fork, and `.xi`, which stores no sample rate."""


MediaContent: TypeAlias = "bytes | Path | Image.Image"
"""The content of a file, its path, or a decoded image."""


Background = Literal["auto", "white", "black"]
"""Colour behind transparent pixels."""


ImageSize: TypeAlias = int | tuple[int, int]
"""Height and width in pixels, or the side of a square."""


AUDIO_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
"""libsndfile's format of each writable suffix: 16 bits for the first two, Vorbis for the last."""
