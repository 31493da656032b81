"""What a split hands out: batches for networks, and the chunks of raw pixels they are made from."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Samples ready for a network."""

    data: Tensor
    """float32 [B, C, H, W] in [-1, 1]."""
    labels: Tensor | None
    """int64 [B], or None where the set has no labels."""


class Chunk(NamedTuple):
    """Consecutive samples of a split as stored."""

    images: Tensor
    """uint8 [n, C, H, W]."""
    labels: Tensor | None
    """int64 [n]."""
    start: int
    """Where reading began: `chunks(start=start)` gives this chunk again."""
