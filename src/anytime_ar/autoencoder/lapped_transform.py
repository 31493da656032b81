"""The lapped transform (Malvar 1992): a rotation of samples across the borders of segments.

Codes of segments that merely touch leave a click at each border. The lapped transform avoids it
without additional samples. It rotates each sample after a border with its mirror image before it.
The angle falls from 45 degrees at the border to 0 in the middle of a segment. So a segment,
transformed back, reaches into half of both neighbours and fades out there. The rotation is
orthogonal: errors have the same size before and after it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def lapped_transform(x: Tensor, segments: int, *, inverse: bool = False) -> Tensor:
    """Rotate samples across the borders of segments, or rotate them back.

    Args:
        x: float [B, C, T, ...], T divisible by `segments`.
        segments: number of segments along T.
        inverse: whether to apply the inverse transform.

    Returns:
        The same shape. The outer halves of the first and the last segment are unchanged.
    """
    size = x.shape[2] // segments
    half = size // 2
    if segments == 1 or half == 0:
        return x
    positions = (torch.arange(half, device=x.device, dtype=x.dtype) + 0.5) / half
    angle = (1 - positions) * (math.pi / 4) * (-1 if inverse else 1)  # from the border outwards
    angle = angle.view(-1, *[1] * (x.ndim - 3))
    parts = x.unflatten(2, (segments, size))
    before = parts[:, :, :-1, size - half :].flip(3)  # [B, C, borders, half, ...], mirrored
    after = parts[:, :, 1:, :half]
    rotated_before = angle.cos() * before + angle.sin() * after
    rotated_after = angle.cos() * after - angle.sin() * before
    starts = torch.cat([parts[:, :, :1, :half], rotated_after], dim=2)
    ends = torch.cat([rotated_before.flip(3), parts[:, :, -1:, size - half :]], dim=2)
    middles = parts[:, :, :, half : size - half]
    return torch.cat([starts, middles, ends], dim=3).flatten(2, 3)
