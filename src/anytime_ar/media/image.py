"""Decode images to uint8 [C, H, W], convert between uint8 and float, and encode images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile
from torch import Tensor

from anytime_ar.errors import BrokenSampleError, DataError, InputError
from anytime_ar.media.formats import IMAGE_FORMATS, Background, ImageSize, MediaContent
from anytime_ar.runtime.files import write_atomically

PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode for each number of channels."""
_GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of one channel; a palette is a way to store colours."""
_HIGH_DEPTH_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of more than 8 bits."""
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
"""Pillow's modes of several channels, and palettes."""
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
"""Pillow's modes with an alpha channel."""
_OPAQUE_FORMATS = ("JPEG", "BMP")
"""Formats that are written without transparency."""
_NEAR_WHITE_LEVEL = 224
"""Mean level above which an image would be invisible on white."""
_MAX_STRIPPED_BYTES = 2**28
"""Largest file that is read into memory to remove invalid metadata."""
_UNSUPPORTED_FORMATS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "IPTC"})
"""Formats for which Pillow starts another program, or has no decoder."""


def to_uint8(images: Tensor) -> Tensor:
    """Round floats in [-1, 1] of any shape to uint8 0..255, and clip values beyond the range."""
    return ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def decode_image(
    encoded: MediaContent,
    origin: str,
    *,
    channels: int | None = None,
    center_crop: ImageSize | None = None,
    size: ImageSize | None = None,
    background: Background = "auto",
) -> npt.NDArray[np.uint8]:
    """Decode an image to grayscale, RGB or RGBA, crop its central rectangle and resize it.

    Args:
        encoded: the file's content, its path, or a decoded image.
        origin: name of the sample, for messages.
        channels: 1, 3, or 4 to keep transparency; gray or RGB as stored when None.
        center_crop: see `central_rectangle`.
        size: size in pixels to resize to; not resized when None.
        background: colour behind transparent pixels, unless `channels` is 4.

    Returns:
        uint8 [C, H, W].

    Raises:
        BrokenSampleError: it does not decode, or has too many pixels.
        DataError: it does not fit the other arguments.
    """
    image = convert_channels(open_image(encoded, origin), channels, background, origin)
    return image_to_array(center_crop_and_resize(image, center_crop, size, origin))


def open_image(encoded: MediaContent, origin: str) -> Image.Image:
    """Decode the first frame of an image completely, and turn it upright.

    Invalid metadata is ignored.

    Args:
        encoded: the file's content, its path, or a decoded image, which is returned as it is.
        origin: name of the sample, for messages.

    Raises:
        BrokenSampleError: it is not an image, is truncated, or has more pixels than Pillow opens
            without a warning.
    """
    if isinstance(encoded, Image.Image):
        return encoded
    try:
        if isinstance(encoded, Path) and not encoded.is_file():
            raise BrokenSampleError(f"{origin}: is not there, or leads nowhere; restore it")
        if (len(encoded) if isinstance(encoded, bytes) else encoded.stat().st_size) == 0:
            raise BrokenSampleError(f"{origin}: is empty, and holds no image; fill it in")
        try:
            image = _open_upright(encoded, origin)
        except BrokenSampleError:
            raise
        except Exception:  # of any type, as below
            if isinstance(encoded, Path) and encoded.stat().st_size > _MAX_STRIPPED_BYTES:
                raise
            content = encoded if isinstance(encoded, bytes) else encoded.read_bytes()
            if (bare := strip_metadata(content)) is None:
                raise
            image = _open_upright(bare, origin)
    except BrokenSampleError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenSampleError(f"{origin}: is too large ({error}); send a smaller one") from error
    # Pillow documents no errors for broken files: its decoders let through what struct, zlib and
    # codecs raise. Its own fuzzers catch `Exception` (Tests/oss-fuzz/fuzz_pillow.py in Pillow).
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error).strip() else type(error).__name__
        if "cannot identify" in reason:
            reason = "no format that is known"  # instead of the address of a buffer
        raise BrokenSampleError(
            f"{origin}: does not decode as an image ({reason}); repair or replace it"
        ) from error
    return image


def _open_upright(encoded: bytes | Path, origin: str) -> Image.Image:
    """Decode an image with its metadata, and turn it upright.

    Raises:
        BrokenSampleError: the format is not supported, or there are too many pixels.
    """
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
        is_gray = _is_16_bit_gray_with_alpha(image)
        image.load()
        turn = exif_orientation(image)
        upright: Image.Image = image if turn is None else image.transpose(turn)
        if is_gray:
            upright = Image.merge("LA", (upright.getchannel("R"), upright.getchannel("A")))
        upright.format = image.format
        return upright


def _is_16_bit_gray_with_alpha(image: Image.Image) -> bool:
    """Return whether Pillow will decode an opened grayscale PNG as RGBA."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return image.format == "PNG" and any(tile[3] == "LA;16B" for tile in tiles)


def convert_channels(
    image: Image.Image, channels: int | None, background: Background, origin: str
) -> Image.Image:
    """Convert an image to 8 bits, in grayscale or RGB without transparency, or in RGBA.

    Args:
        image: a decoded image.
        channels: 1, 3, or 4 for RGBA; gray or RGB as stored when None.
        background: colour behind transparent pixels.
        origin: name of the sample, for messages.

    Raises:
        BrokenSampleError: the pixel format has no defined conversion to 8 bits, or the image is
            fully transparent.
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
    elif image.mode == "LAB":  # Pillow converts it to RGB only
        image = image.convert("RGB")
    if channels == 4:
        image = image.convert("RGB")
        image.putalpha(255 if alpha is None else alpha)
        return image
    if alpha is not None and alpha.getextrema()[0] != 255:
        image = _composite(image, alpha, background, origin)
    return image if image.mode == mode else image.convert(mode)


def _palette_has_alpha(image: Image.Image) -> bool:
    """Return whether an image's palette has transparency itself."""
    return image.palette is not None and image.palette.mode.endswith("A")


def _composite(
    image: Image.Image, alpha: Image.Image, background: Background, origin: str
) -> Image.Image:
    """Composite an image over a background; `auto` is white, or black for a nearly white image.

    Args:
        image: grayscale or RGB.
        alpha: its transparency, grayscale.
        background: colour behind transparent pixels.
        origin: name of the sample, for messages.

    Raises:
        BrokenSampleError: the image is fully transparent, but has different colours.
    """
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
    """Convert 16 bits to 8, and return the alpha channel if one level is declared transparent.

    Raises:
        BrokenSampleError: the image has 32 bits.
    """
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # those two have at most 16 bits
        raise BrokenSampleError(
            f"{origin}: 32-bit integers have no agreed white; convert it to 8 or 16 bits"
        )
    levels = np.asarray(image).astype(np.int64)
    clear = image.info.get("transparency")
    alpha = None
    if isinstance(clear, int):
        alpha = Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8))
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8)), alpha


def central_rectangle(
    height: int, width: int, center_crop: ImageSize | None, size: ImageSize | None
) -> tuple[int, int]:
    """Return height and width of the central rectangle to crop from an image.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        center_crop: size of the rectangle; None: the largest with the proportions of `size`.
        size: size that the rectangle is resized to; None: the whole image unless `center_crop`.
    """
    if center_crop is not None:
        return _height_and_width(center_crop)
    if size is None:
        return height, width
    rows, columns = _height_and_width(size)
    scale = min(height / rows, width / columns)
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def _height_and_width(size: ImageSize) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def center_crop_and_resize(
    image: Image.Image, center_crop: ImageSize | None, size: ImageSize | None, origin: str
) -> Image.Image:
    """Crop the central rectangle, then resize it (bicubic with antialiasing).

    Args:
        image: grayscale, RGB or RGBA.
        center_crop: see `central_rectangle`.
        size: size in pixels to resize to; not resized when None.
        origin: name of the sample, for messages.

    Raises:
        DataError: the image is smaller than the crop.
    """
    width, height = image.size
    rows, columns = central_rectangle(height, width, center_crop, size)
    if rows > height or columns > width:
        crop = rows if rows == columns else [rows, columns]
        raise DataError(
            f"{origin}: {width} x {height} is smaller than data.center_crop={crop}; "
            "lower data.center_crop"
        )
    if (height, width) != (rows, columns):
        left, top = (width - columns) // 2, (height - rows) // 2
        image = image.crop((left, top, left + columns, top + rows))
    if size is not None and _height_and_width(size) != (rows, columns):
        image = image.resize(_height_and_width(size)[::-1], Image.Resampling.BICUBIC)
    return image


def image_to_array(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return a grayscale, RGB or RGBA image as uint8 [C, H, W]."""
    pixels = np.asarray(image, dtype=np.uint8)  # [H, W] or [H, W, C]
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def to_float(stored: Tensor) -> Tensor:
    """Convert uint8 0..255, int16 or floats in [-1, 1] of any shape to float32 in [-1, 1].

    Both ends of uint8 are exact.
    """
    if stored.is_floating_point():
        return stored.to(torch.float32)
    if stored.dtype == torch.uint8:
        return stored.to(torch.float32) / 127.5 - 1.0
    return stored.to(torch.float32) / 32768.0


def encode_images(images: Tensor, format: str = "png", **options: Any) -> list[bytes]:
    """Encode images.

    Args:
        images: float [n, C, H, W] in [-1, 1], C = 1, 3 or 4.
        format: a format of Pillow.
        **options: options of that format.

    Returns:
        The content of one file for each image.
    """
    pixels = to_uint8(images.cpu()).permute(0, 2, 3, 1).squeeze(-1).numpy()  # [n, H, W(, C)]
    files = []
    for array in pixels:
        file = io.BytesIO()
        Image.fromarray(array).save(file, format, **options)
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
"""Transpose that turns an image upright, by EXIF orientation."""
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_COLOUR_SEGMENTS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
"""Name and least size in bytes of the JPEG segments that declare how colours are stored."""


def exif_orientation(image: Image.Image) -> Image.Transpose | None:
    """Return the transpose that turns an image upright by its EXIF; None if EXIF has none."""
    try:
        stored = image.getexif().get(_EXIF_ORIENTATION_TAG)
    # Errors are of any type, as in `open_image`; the pixels are readable all the same.
    except Exception:
        return None
    return _EXIF_TRANSPOSES.get(stored) if isinstance(stored, int) else None


def strip_metadata(content: bytes) -> bytes | None:
    """Return an image file with only what its pixels need.

    Args:
        content: the content of the file.

    Returns:
        None if there is nothing to remove, or the format is neither PNG nor JPEG.
    """
    if content.startswith(_PNG):
        bare = _strip_png(content)
    elif content.startswith(_JPEG):
        bare = _strip_jpeg(content)
    else:
        return None
    return bare if len(bare) < len(content) else None


def _strip_png(content: bytes) -> bytes:
    """Return the critical chunks, whose names begin with a capital, and transparency."""
    chunks = [_PNG]
    at = len(_PNG)
    while at + 8 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        name = content[at + 4 : at + 8]
        if not name.isalpha():  # no chunk of PNG
            break
        if name[:1].isupper() or name == b"tRNS":
            chunks.append(content[at:end])
        at = end
    return b"".join(chunks)


def _strip_jpeg(content: bytes) -> bytes:
    """Remove comments and application data before the scan, but not JFIF and Adobe.

    These two declare how colours are stored. A shorter one than its format requires is removed as
    well: libjpeg ignores it, but Pillow fails at it.
    """
    segments = [_JPEG]
    at = len(_JPEG)
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA:
            break
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker in (0xE0, 0xEE):
            name, size = _COLOUR_SEGMENTS[marker]
            is_kept = content[at + 4 : end].startswith(name) and end - at - 4 >= size
        else:
            is_kept = not (0xE1 <= marker <= 0xEF or marker == 0xFE)
        if is_kept:
            segments.append(content[at:end])
        at = end
    return b"".join([*segments, content[at:]])


def read_image(
    path: str | Path,
    *,
    channels: int | None = None,
    size: ImageSize | None = None,
    background: Background = "auto",
) -> Tensor:
    """Read one image as a batch of one.

    Args:
        path: the file to read.
        channels: convert to grayscale (1), RGB (3) or RGBA (4); gray or RGB as stored when None.
        size: crop the largest central rectangle of these proportions and resize it to this size;
            as stored when None.
        background: colour behind transparent pixels; see `DataConfig.background`.

    Returns:
        float32 [1, C, H, W] in [-1, 1].

    Raises:
        DataError: the file is missing or does not decode.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}; pass the path of an image")
    pixels = decode_image(path, str(path), channels=channels, size=size, background=background)
    return to_float(torch.from_numpy(pixels.copy()))[None]


def write_image(path: str | Path, image: Tensor) -> None:
    """Write an image in the format of the suffix, replacing an existing file atomically.

    Args:
        path: the file to write; the suffix is one of `WRITABLE_IMAGE_SUFFIXES`.
        image: float [C, H, W] in [-1, 1], C = 1, 3 or 4; values beyond the range are clipped. RGBA
            is composited over white for formats without transparency.

    Raises:
        InputError: the suffix is unknown, the tensor has another shape, or the path is not
            writable.
    """
    path = Path(path)
    encoder = IMAGE_FORMATS.get(path.suffix.lower())
    if encoder is None:
        raise InputError(
            f"{path}: cannot write a picture with suffix {path.suffix!r}; "
            f"use one of {', '.join(IMAGE_FORMATS)}"
        )
    if image.ndim != 3 or image.shape[0] not in PILLOW_MODES:
        raise InputError(
            f"{path}: cannot write a tensor of shape {tuple(image.shape)}; pass [1, H, W], "
            "[3, H, W] or [4, H, W]"
        )
    pixels = to_uint8(image.detach().cpu()).permute(1, 2, 0).squeeze(-1).numpy()  # [H, W(, C)]
    output = Image.fromarray(pixels)
    if output.mode == "RGBA" and encoder in _OPAQUE_FORMATS:
        output = Image.alpha_composite(Image.new("RGBA", output.size, "white"), output)
        output = output.convert("RGB")
    write_atomically(path, lambda file: output.save(file, encoder))
