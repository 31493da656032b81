"""Single pictures and grids of samples, between files and tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from anytime_ar.data.pixels import decode_image, to_float, to_uint8
from anytime_ar.data.suffixes import IMAGE_FORMATS, Background
from anytime_ar.errors import DataError, InputError
from anytime_ar.files import write_atomically

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
