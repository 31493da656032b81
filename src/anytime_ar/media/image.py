"""From an encoded picture to uint8 [C, H, W], and between uint8 and float values."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from anytime_ar.errors import BrokenSampleError, DataError, InputError
from anytime_ar.media.formats import IMAGE_FORMATS, Background, MediaContent
from anytime_ar.runtime.files import write_atomically

PILLOW_MODES = {1: "L", 3: "RGB"}
_GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of one channel; a palette is a way to store colours."""
_HIGH_DEPTH_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_NEAR_WHITE_LEVEL = 224
"""A drawing that is lighter on average would be lost on white."""
_UNSUPPORTED_FORMATS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "IPTC"})
"""Formats for which Pillow starts another program, or has no decoder."""


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] of any shape to the nearest uint8; values beyond the range are clipped."""
    return ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def decode_image(
    encoded: MediaContent,
    origin: str,
    *,
    channels: int | None = None,
    center_crop: int | None = None,
    size: int | None = None,
    background: Background = "auto",
) -> npt.NDArray[np.uint8]:
    """Decode a picture to grayscale or RGB, a centred square of it.

    Args:
        channels: 1 or 3; as stored when None.
        center_crop: side in pixels of the square that is kept; the largest when None.
        size: what it is resized to; as it is when None.
        background: what transparent pixels are laid over.

    Returns:
        uint8 [C, H, W].

    Raises:
        BrokenSampleError: it does not decode.
        DataError: it is too large, or does not fit the other arguments.
    """
    image = convert_channels(open_image(encoded, origin), channels, background, origin)
    return image_to_array(center_crop_and_resize(image, center_crop, size, origin))


def open_image(encoded: MediaContent, origin: str) -> Image.Image:
    """Decode the first frame of a picture completely and turn it upright.

    Metadata that is out of order is ignored.

    Raises:
        BrokenSampleError: it is not a picture, is cut short, or has more pixels than Pillow
            opens without a warning.
    """
    if isinstance(encoded, Image.Image):
        return encoded
    if encoded == b"":
        raise BrokenSampleError(f"{origin}: is empty, and does not decode as an image; fill it in")
    try:
        if isinstance(encoded, Path) and not encoded.is_file():
            raise BrokenSampleError(f"{origin}: is not there, or leads nowhere; restore it")
        try:
            image = _open_upright(encoded, origin)
        except BrokenSampleError:
            raise
        except Exception:
            content = encoded if isinstance(encoded, bytes) else encoded.read_bytes()
            if (bare := strip_metadata(content)) is None:
                raise
            image = _open_upright(bare, origin)
    except BrokenSampleError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenSampleError(f"{origin}: is too large ({error}); send a smaller one") from error
    # Pillow's decoders raise whatever they stumble on in broken files.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error).strip() else type(error).__name__
        if "cannot identify" in reason:
            reason = "no format that is known"  # and not the address of a buffer
        raise BrokenSampleError(
            f"{origin}: does not decode as an image ({reason}); repair or replace it"
        ) from error
    return image


def _open_upright(encoded: bytes | Path, origin: str) -> Image.Image:
    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
        if image.format in _UNSUPPORTED_FORMATS:
            raise BrokenSampleError(
                f"{origin}: is {image.format}, which is not read; convert it to PNG"
            )
        width, height = image.size
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and width * height > most:
            raise BrokenSampleError(
                f"{origin}: {width} x {height} are too many pixels; pass at most {most}"
            )
        image.load()
        turn = exif_orientation(image)
        if turn is None:
            return image
        turned = image.transpose(turn)
        turned.format = image.format
        return turned


def convert_channels(
    image: Image.Image, channels: int | None, background: Background, origin: str
) -> Image.Image:
    """Convert to 8 bits in the channel count asked for, or in what the file holds, without
    transparency.

    Raises:
        BrokenSampleError: a pixel format without a plain 8-bit reading.
    """
    if image.mode not in (*_GRAY_MODES, *_COLOUR_MODES):
        raise BrokenSampleError(
            f"{origin}: pixel format {image.mode} has no agreed black and white; convert it to "
            "8 or 16 bits"
        )
    mode = PILLOW_MODES[channels or (1 if image.mode in _GRAY_MODES else 3)]
    alpha = None
    if image.mode in _HIGH_DEPTH_MODES:
        image, alpha = _to_8_bit(image, origin)
    elif image.mode in _ALPHA_MODES or "transparency" in image.info or _palette_has_alpha(image):
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        image = (image if straight is None else image.convert(straight)).convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode == "LAB":  # from which there is no other way
        image = image.convert("RGB")
    if alpha is not None and alpha.getextrema()[0] != 255:
        image = _composite(image, alpha, background, origin)
    return image if image.mode == mode else image.convert(mode)


def _palette_has_alpha(image: Image.Image) -> bool:
    """Whether a palette has transparency itself."""
    return image.palette is not None and image.palette.mode.endswith("A")


def _composite(
    image: Image.Image, alpha: Image.Image, background: Background, origin: str
) -> Image.Image:
    """Lay a picture over white, or over black where it is nearly white itself."""
    if alpha.getextrema()[1] == 0 and np.ptp(np.asarray(image), axis=(0, 1)).any():
        raise BrokenSampleError(
            f"{origin}: is transparent all over, and holds pixels beneath; remove its transparency"
        )
    if background == "auto":
        weights = np.asarray(alpha, dtype=np.float64)
        light = (np.asarray(image.convert("L")) * weights).sum()
        background = "black" if light > _NEAR_WHITE_LEVEL * weights.sum() else "white"
    return Image.composite(image, Image.new(image.mode, image.size, background), alpha)


def _to_8_bit(image: Image.Image, origin: str) -> tuple[Image.Image, Image.Image | None]:
    """Bring 16 bits to 8; and the transparency of the one level that may be declared clear."""
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # which have no more than 16 bits
        raise BrokenSampleError(
            f"{origin}: 32-bit integers have no agreed white; convert it to 8 or 16 bits"
        )
    levels = np.asarray(image).astype(np.int64)
    clear = image.info.get("transparency")
    alpha = None
    if isinstance(clear, int):
        alpha = Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8))
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8)), alpha


def center_crop_and_resize(
    image: Image.Image, center_crop: int | None, size: int | None, origin: str
) -> Image.Image:
    """Cut the centred square, then resize it (bicubic with antialiasing).

    Raises:
        DataError: smaller than the crop, or not square with neither crop nor size given.
    """
    width, height = image.size
    if center_crop is None and size is None and width != height:
        raise DataError(
            f"{origin}: {width} x {height} is not square; set data.size or data.center_crop"
        )
    side = center_crop or min(width, height)
    if side > min(width, height):
        raise DataError(
            f"{origin}: {width} x {height} is smaller than data.center_crop={side}; "
            "lower data.center_crop"
        )
    if (width, height) != (side, side):
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if size is not None and size != side:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return image


def image_to_array(image: Image.Image) -> npt.NDArray[np.uint8]:
    """A grayscale or RGB picture as uint8 [C, H, W]."""
    pixels = np.asarray(image, dtype=np.uint8)  # [H, W] or [H, W, 3]
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def to_float(stored: Tensor) -> Tensor:
    """uint8 0..255 or int16 of any shape to float32 in [-1, 1]; both ends of uint8 are exact."""
    if stored.dtype == torch.uint8:
        return stored.to(torch.float32) / 127.5 - 1.0
    return stored.to(torch.float32) / 32768.0


def encode_images(images: Tensor, format: str = "png", **options: Any) -> list[bytes]:
    """Encode pictures.

    Args:
        images: float [n, C, H, W] in [-1, 1], C = 1 or 3.
        format: a format of Pillow.
        options: of that format.
    """
    pixels = to_uint8(images.cpu()).permute(0, 2, 3, 1).squeeze(-1).numpy()  # [n, H, W(, 3)]
    files = []
    for picture in pixels:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format, **options)
        files.append(file.getvalue())
    return files


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


GRID_GAP = 2
"""Pixels between the pictures of a grid and round them, white."""


def read_image(
    path: str | Path,
    *,
    channels: Literal[1, 3] | None = None,
    size: int | None = None,
    background: Background = "auto",
) -> Tensor:
    """Read one picture as a batch of one.

    Args:
        channels: convert to grayscale (1) or RGB (3); as stored when None.
        size: cut the largest centred square and resize it to this many pixels a side; when None,
            the picture must be square.
        background: what transparent pixels are laid over; see `DataConfig.background`.

    Returns:
        float32 [1, C, H, W] in [-1, 1].

    Raises:
        DataError: the file is missing or does not decode, or needs `channels` or `size`.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; pass the path of an image")
    pixels = decode_image(path, str(path), channels=channels, size=size, background=background)
    return to_float(torch.from_numpy(pixels.copy()))[None]


def write_image(path: str | Path, image: Tensor) -> None:
    """Write a picture; the format follows the suffix. An existing file is replaced at once.

    Args:
        image: float [C, H, W] in [-1, 1], C = 1 or 3; values beyond the range are clipped.

    Raises:
        InputError: unknown suffix, a tensor of another shape, or the path cannot be written.
    """
    path = Path(path)
    encoder = IMAGE_FORMATS.get(path.suffix.lower())
    if encoder is None:
        raise InputError(
            f"{path}: cannot write a picture with suffix {path.suffix!r}; "
            f"use one of {', '.join(IMAGE_FORMATS)}"
        )
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise InputError(
            f"{path}: cannot write a tensor of shape {tuple(image.shape)}; pass [1, H, W] or "
            "[3, H, W]"
        )
    pixels = to_uint8(image.detach().cpu()).permute(1, 2, 0).squeeze(-1).numpy()  # [H, W(, 3)]
    picture = Image.fromarray(pixels)
    write_atomically(path, lambda file: picture.save(file, encoder))


def image_grid(images: Tensor, columns: int) -> Tensor:
    """Lay pictures out row by row.

    Args:
        images: float [N, C, H, W] in [-1, 1]; cells that N does not fill stay white.
        columns: pictures in a row.

    Returns:
        float [C, H', W'] with `H' = rows * (H + GRID_GAP) - GRID_GAP`, and `W'` likewise: one
        picture comes out as it is, so that it can be encoded again.

    Raises:
        InputError: no images, another shape, or `columns` below 1.
    """
    if images.ndim != 4 or len(images) == 0:
        raise InputError(f"images have shape {tuple(images.shape)}; pass [N, C, H, W] with N >= 1")
    if columns < 1:
        raise InputError(f"columns is {columns}; pass at least 1")
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    step_down, step_right = height + GRID_GAP, width + GRID_GAP
    grid = images.new_ones(channels, rows * step_down - GRID_GAP, columns * step_right - GRID_GAP)
    for i, image in enumerate(images):
        top, left = i // columns * step_down, i % columns * step_right
        grid[:, top : top + height, left : left + width] = image
    return grid
