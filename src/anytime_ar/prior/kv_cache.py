"""The key-value cache: what a prior remembers of the rows that it is drawing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BMM_LOOP_BELOW = 400
"""PyTorch computes batched products of fewer multiplications than this in a loop of its own, which
rounds differently from BLAS."""


class TorchKVCache:
    """Keys and values of every layer, for rows that may stand at different positions.

    A value of the caller, never of the prior, so that several draws on one prior do not disturb
    one another. Positions are laid out in blocks that grow with the draw: products on whole,
    contiguous blocks are faster than on exact slices, and a row's result does not depend on how
    many empty blocks come after it. What lies beyond a row's own position is finite, and hidden by
    the mask.

    Args:
        layers: number of layers.
        capacity: how many rows there is room for.
        heads: number of heads.
        length: L, how many positions there may be.
        head_width: width of a head.
        device: where to hold it.
    """

    def __init__(
        self,
        layers: int,
        capacity: int,
        heads: int,
        length: int,
        head_width: int,
        device: torch.device,
    ) -> None:
        # a multiple of 16, the width of a vector register, that keeps products above the limit
        self._block = 16 * math.ceil(_BMM_LOOP_BELOW / (16 * head_width))
        self.capacity = capacity
        """How many rows there is room for."""
        self._heads, self._head_width = heads, head_width
        most = 2 * capacity * heads * self._blocks(length) * head_width
        self._memory = torch.zeros(layers, most, dtype=torch.float32, device=device)
        self.clear()

    @property
    def row_bytes(self) -> int:
        """Memory that one row takes."""
        return self._memory.nbytes // self.capacity

    def clear(self) -> None:
        """Forget everything, keeping the memory: fresh memory costs as much as the draw's sums."""
        self._set_views(self._block)

    def reserve(self, positions: int) -> None:
        """Make room for this many positions, keeping what is there."""
        positions = self._blocks(positions)
        if positions <= self.positions:
            return
        for old, memory in zip(list(self.layers), self._memory, strict=True):
            kept = old.clone()  # the new order overlaps the old
            new = self._view(memory, positions)
            new[:, :, :, : kept.shape[3]] = kept
        self._set_views(positions)

    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        for layer in self.layers:
            layer[:, target] = layer[:, source]

    def _blocks(self, positions: int) -> int:
        return math.ceil(positions / self._block) * self._block

    def _set_views(self, positions: int) -> None:
        self.positions = positions
        """T, how many positions there is room for."""
        self.layers = [self._view(memory, positions) for memory in self._memory]
        """Per layer float32 [2, rows, heads, T, head_width]: keys, then values."""

    def _view(self, memory: Tensor, positions: int) -> Tensor:
        shape = (2, self.capacity, self._heads, positions, self._head_width)
        return memory[: math.prod(shape)].view(shape)


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """One query per row and head: q float32 [B, heads, head_width] -> [B, E].

    Args:
        q: scaled queries.
        keys: float32 [B, heads, T, head_width].
        values: the same shape.
        mask: what to add to the scores, 0 or -inf, [1 or B * heads, 1, T].
    """
    batch, heads, head_width = q.shape
    rows = batch * heads
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)  # [B * heads, T, head_width]
    scores = torch.baddbmm(mask, q.reshape(rows, 1, head_width), keys.mT)  # [B * heads, 1, T]
    return torch.bmm(scores.softmax(-1), values).view(batch, heads * head_width)
