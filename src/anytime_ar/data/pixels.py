"""From an encoded picture to uint8 [C, H, W], and between uint8 and float values."""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from anytime_ar.data.config import DataConfig
from anytime_ar.data.rows import Encoded, Row
from anytime_ar.errors import DataError

# A palette is a way to store colours, not a channel count.
CHANNELS_OF_MODE = {"1": 1, "L": 1, "P": 3, "RGB": 3, "LA": 2, "PA": 4, "RGBA": 4}
MODE_OF_CHANNELS = {1: "L", 3: "RGB"}


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] of any shape to the nearest uint8; values beyond the range are clipped."""
    return ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def decode(encoded: Encoded, origin: str) -> Image.Image:
    """Decode a picture completely and turn it upright.

    Raises:
        DataError: it is not a picture, is cut short, or is larger than Pillow agrees to open.
    """
    if isinstance(encoded, Image.Image):
        return encoded
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return image
    except (
        OSError,
        SyntaxError,  # Pillow's word for a broken PNG chunk
        ValueError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{origin}: does not decode as an image ({reason}); replace or remove it"
        ) from error


def with_channels(image: Image.Image, channels: int | None, origin: str) -> Image.Image:
    """Convert to the channel count asked for, or to what the file holds.

    Raises:
        DataError: a pixel format without a plain 8-bit reading.
    """
    stored = CHANNELS_OF_MODE.get(image.mode)
    if stored is None and image.mode not in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise DataError(
            f"{origin}: pixel format {image.mode} is not supported; convert it to 8-bit grayscale "
            "or RGB"
        )
    wanted = channels or stored
    if wanted not in MODE_OF_CHANNELS:
        raise DataError(
            f"{origin}: pixel format {image.mode} has {wanted or 'neither 1 nor 3'} channels, "
            "expected 1 or 3; set data.channels to 1 or 3"
        )
    mode = MODE_OF_CHANNELS[wanted]
    return image if image.mode == mode else image.convert(mode)


def cropped_square(
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


def to_array(image: Image.Image) -> npt.NDArray[np.uint8]:
    """A grayscale or RGB picture as uint8 [C, H, W]."""
    pixels = np.asarray(image, dtype=np.uint8)  # [H, W] or [H, W, 3]
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


class _Reference(NamedTuple):
    shape: tuple[int, ...]
    origin: str


class ImageReader:
    """Reads rows to arrays, and sees to it that all have the shape of the first."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._first: _Reference | None = None

    def __call__(self, row: Row) -> npt.NDArray[np.uint8]:
        """uint8 [C, H, W] of one row.

        Raises:
            DataError: it does not decode, or differs from the first image in channels or size.
        """
        config = self._config
        image = with_channels(decode(row.content, row.origin), config.channels, row.origin)
        pixels = to_array(cropped_square(image, config.center_crop, config.size, row.origin))
        if self._first is None:
            self._first = _Reference(pixels.shape, row.origin)
        elif pixels.shape != self._first.shape:
            self._refuse(pixels.shape, row.origin, self._first)
        return pixels

    @staticmethod
    def _refuse(shape: tuple[int, ...], origin: str, first: _Reference) -> None:
        if shape[0] != first.shape[0]:
            raise DataError(
                f"{origin}: {shape[0]} channels, but {first.origin} has {first.shape[0]}; "
                "set data.channels to 1 or 3"
            )
        raise DataError(
            f"{origin}: {shape[2]} x {shape[1]}, but {first.origin} is {first.shape[2]} x "
            f"{first.shape[1]}; set data.size"
        )
