"""What picture files say beside their pixels. Only how to turn them upright is needed."""

from __future__ import annotations

from PIL import Image

_EXIF_ORIENTATION_TAG = 0x0112
_EXIF_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"


def exif_orientation(image: Image.Image) -> Image.Transpose | None:
    """Return how to turn a picture upright by its EXIF; None where it does not say."""
    try:
        stored = image.getexif().get(_EXIF_ORIENTATION_TAG)
    # Pillow raises whatever it stumbles on in metadata that is out of order, which is no reason
    # not to read the pixels.
    except Exception:
        return None
    return _EXIF_TRANSPOSES.get(stored) if isinstance(stored, int) else None


def strip_metadata(content: bytes) -> bytes | None:
    """Return the file with nothing but what its pixels need; None where there is nothing else, or
    the format is another than PNG and JPEG."""
    if content.startswith(_PNG):
        bare = _strip_png(content)
    elif content.startswith(_JPEG):
        bare = _strip_jpeg(content)
    else:
        return None
    return bare if len(bare) < len(content) else None


def _strip_png(content: bytes) -> bytes:
    """Critical chunks, whose names begin with a capital, and transparency."""
    kept = [_PNG]
    at = len(_PNG)
    while at + 8 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        name = content[at + 4 : at + 8]
        if name[:1].isupper() or name == b"tRNS":
            kept.append(content[at:end])
        at = end
    return b"".join(kept)


def _strip_jpeg(content: bytes) -> bytes:
    """All up to the scan but comments and application data; of these, JFIF and Adobe say how
    colours are stored."""
    kept = [_JPEG]
    at = len(_JPEG)
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA:
            break
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker in (0xE0, 0xEE) or not (0xE1 <= marker <= 0xEF or marker == 0xFE):
            kept.append(content[at:end])
        at = end
    return b"".join([*kept, content[at:]])
