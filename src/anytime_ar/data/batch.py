"""What a split hands out: batches for networks, and the chunks of stored samples they are made
from."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Batch(NamedTuple):
    """Samples ready for a network."""

    data: Tensor
    """float32 in [-1, 1]: pictures [B, C, H, W], sounds [B, 1, T]."""
    labels: Tensor | None
    """int64 [B], or None where the set has no labels."""


class StoredChunk(NamedTuple):
    """Consecutive samples of a split as stored."""

    samples: Tensor
    """Pictures uint8 [n, C, H, W], sounds int16 [n, 1, T]."""
    labels: Tensor | None
    """int64 [n]."""
    start: int
    """Where reading began: `chunks(start=start)` gives this chunk again."""


class ShuffleBlock(Protocol):
    """Samples of a split that are shuffled together; each is read when it is taken."""

    start: int
    """As for a `StoredChunk`."""
    labels: Tensor | None
    """int64 [n]."""

    def __len__(self) -> int:
        """n."""

    def take(self, indices: Tensor) -> Tensor:
        """Samples as stored, of places int64 [m] in 0..n-1: pictures uint8 [m, C, H, W], sounds
        int16 [m, 1, S].

        Raises:
            DataError: one of them cannot be used.
        """
        ...
