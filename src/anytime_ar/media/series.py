"""Convert series between their own units and [-1, 1], and read and write them as tables of text.

A series has C channels of T steps, such as the readings of sensors. The range of each channel in
the training split is scaled to [-1, 1].
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ChannelRanges: TypeAlias = tuple[tuple[float, float], ...]
"""Lowest and highest value of each channel in the training split, in its own units."""


def scale_channels(values: Tensor, ranges: ChannelRanges) -> Tensor:
    """Scale the range of each channel to [-1, 1]: float [..., C, T] to float32 of this shape.

    Values beyond the range are beyond [-1, 1]. A channel that never changes is 0.

    Args:
        values: series in their own units.
        ranges: C ranges.
    """
    middle, half = _middle_and_half(values, ranges)
    return ((values.double() - middle) / half.where(half > 0, 1.0)).float()


def unscale_channels(samples: Tensor, ranges: ChannelRanges) -> Tensor:
    """Return scaled series in their own units, float32 [..., C, T]; see `scale_channels`."""
    middle, half = _middle_and_half(samples, ranges)
    return (samples.double() * half + middle).float()


def _middle_and_half(like: Tensor, ranges: ChannelRanges) -> tuple[Tensor, Tensor]:
    """Return the middle and half the width of each range, float64 [C, 1]."""
    ends = torch.tensor(ranges, dtype=torch.float64, device=like.device)  # [C, 2]
    return ends.mean(1, keepdim=True), (ends[:, 1:] - ends[:, :1]) / 2


def series_to_csv(series: npt.NDArray[np.float32], names: Sequence[str]) -> bytes:
    """Return a series [C, T] as text with a line for each step, below the names of the channels."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([f"{value:.9g}" for value in step] for step in series.T.tolist())
    return file.getvalue().encode()


def series_from_csv(content: bytes) -> npt.NDArray[np.float32]:
    """Return the series [C, T] of a text with a line for each step; a line of names may come first.

    Raises:
        ValueError: it is no text, a value is no number, or lines differ in length.
    """
    lines = [line for line in csv.reader(io.StringIO(content.decode("utf-8-sig"))) if line]
    try:
        [float(value) for value in lines[0]]
    except ValueError:
        lines = lines[1:]
    return np.array(lines, dtype=np.float32).T
