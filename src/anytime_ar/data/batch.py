"""Define the batches that a split returns, and the chunks of stored samples they are made from."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Batch(NamedTuple):
    """A batch of samples, ready for a network."""

    data: Tensor
    """Samples, float32 in [-1, 1]: images [B, C, H, W] or clips [B, 1, T]."""
    labels: Tensor | None
    """Class of each sample, int64 [B]; None if the set has no labels."""


class StoredChunk(NamedTuple):
    """Consecutive samples of a split, as stored."""

    samples: Tensor
    """Samples as stored: images uint8 [n, C, H, W], clips int16 [n, 1, T]."""
    labels: Tensor | None
    """Class of each sample, int64 [n]; None if the set has no labels."""
    start: int
    """Position where reading began: `chunks(start=start)` returns this chunk again."""


class ShuffleBlock(Protocol):
    """A block of samples that are shuffled together; each sample is decoded when it is taken."""

    start: int
    """Position where reading began: `blocks(start=start)` returns this block again."""
    labels: Tensor | None
    """Class of each sample, int64 [n]; None if the set has no labels."""

    def __len__(self) -> int:
        """Return the number n of samples in the block."""

    def take(self, indices: Tensor) -> Tensor:
        """Return samples of the block as stored.

        Args:
            indices: int64 [m], each in 0..n-1.

        Returns:
            Images uint8 [m, C, H, W], or clips int16 [m, 1, S].

        Raises:
            DataError: a sample cannot be used.
        """
        ...
