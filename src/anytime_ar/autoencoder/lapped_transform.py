"""Segments that reach into their neighbours: a rotation of samples across every border.

Codes of segments that merely touch leave a click at each border. The lapped transform of Malvar
(1992) avoids that without a sample more: each sample after a border is rotated with its mirror
image before it, by an angle that falls from 45 degrees at the border to 0 in the middle of a
segment. What lies in one segment afterwards comes, undone, from half of both neighbours too, and
fades out there. The rotation is orthogonal, so errors keep their size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def lapped_transform(x: Tensor, segments: int, *, inverse: bool = False) -> Tensor:
    """Rotate samples across the borders of segments, or back.

    Args:
        x: float [B, C, T, ...], T divisible by `segments`.
        segments: how many there are along T.
        inverse: the inverse.

    Returns:
        The same shape; the halves of segments at both ends stay as they are.
    """
    size = x.shape[2] // segments
    half = size // 2
    if segments == 1 or half == 0:
        return x
    places = (torch.arange(half, device=x.device, dtype=x.dtype) + 0.5) / half
    angle = (1 - places) * (math.pi / 4) * (-1 if inverse else 1)  # from the border outwards
    angle = angle.view(-1, *[1] * (x.ndim - 3))
    parts = x.unflatten(2, (segments, size))
    before = parts[:, :, :-1, size - half :].flip(3)  # [B, C, borders, half, ...], mirrored
    after = parts[:, :, 1:, :half]
    turned_before = angle.cos() * before + angle.sin() * after
    turned_after = angle.cos() * after - angle.sin() * before
    starts = torch.cat([parts[:, :, :1, :half], turned_after], dim=2)
    ends = torch.cat([turned_before.flip(3), parts[:, :, -1:, size - half :]], dim=2)
    middles = parts[:, :, :, half : size - half]
    return torch.cat([starts, middles, ends], dim=3).flatten(2, 3)
