"""Caches of the rows of a batch: what a prior remembers of the codes so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

_BMM_LOOP_BELOW = 400
"""Number of multiplications below which PyTorch computes a batched product in a loop of its own.
The loop rounds differently from BLAS."""


class KVCache(Protocol):
    """What a prior remembers of each row of a batch: keys and values, or a recurrent state.

    The caller owns the cache, not the prior, so that several batches on one prior do not affect one
    another.
    """

    @property
    def capacity(self) -> int:
        """Return the maximum number of rows."""
        ...

    @property
    def row_bytes(self) -> int:
        """Return the memory of one row, in bytes."""
        ...

    def clear(self) -> None:
        """Forget all rows, but do not free the memory."""
        ...

    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        ...


class TensorCache:
    """A cache that is a list of tensors with a place for each row, such as recurrent states.

    Args:
        capacity: maximum number of rows.
        shapes: shape of each tensor for one row.
        dtype: number format of the tensors.
        device: device of the tensors.
    """

    def __init__(
        self,
        capacity: int,
        shapes: Sequence[Sequence[int]],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Allocate the tensors, filled with zeros."""
        self.capacity = capacity
        """Maximum number of rows."""
        self.tensors = [torch.zeros(capacity, *s, dtype=dtype, device=device) for s in shapes]
        """Tensors [capacity, *shape], in the order of the shapes."""

    @property
    def row_bytes(self) -> int:
        """Return the memory of one row, in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors) // self.capacity

    def clear(self) -> None:
        """Do nothing: a row is written at its first position before it is read."""

    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        for tensor in self.tensors:
            tensor[target] = tensor[source]


class TorchKVCache:
    """Keys and values of every layer, for rows at different positions.

    The caller owns the cache, not the prior, so that several batches on one prior do not affect one
    another. Positions are allocated in blocks as sequences grow: products on whole, contiguous
    blocks are faster than on exact slices. A row's result does not depend on the number of empty
    blocks after it. Numbers after a row's own position are finite, and the mask hides them.

    Args:
        layers: number of layers.
        capacity: maximum number of rows.
        heads: number of heads.
        length: L, maximum number of positions.
        head_width: width of a head.
        device: device of the memory.
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
        """Allocate the memory for all rows and positions."""
        # The block is a multiple of 16, the width of a vector register, and large enough that BLAS
        # computes the products.
        self._block = 16 * math.ceil(_BMM_LOOP_BELOW / (16 * head_width))
        self.capacity = capacity
        """Maximum number of rows."""
        self._heads, self._head_width = heads, head_width
        most = 2 * capacity * heads * self._blocks(length) * head_width
        self._memory = torch.zeros(layers, most, dtype=torch.float32, device=device)
        self.clear()

    @property
    def row_bytes(self) -> int:
        """Return the memory of one row, in bytes."""
        return self._memory.nbytes // self.capacity

    def clear(self) -> None:
        """Forget all keys and values, but do not free the memory.

        Fresh memory costs as much time as the arithmetic of a batch.
        """
        self._set_views(self._block)

    def reserve(self, positions: int) -> None:
        """Make room for this many positions, and preserve keys and values."""
        positions = self._blocks(positions)
        if positions <= self.positions:
            return
        for old, memory in zip(list(self.layers), self._memory, strict=True):
            kept = old.clone()  # the new layout overlaps the old
            new = self._view(memory, positions)
            new[:, :, :, : kept.shape[3]] = kept
        self._set_views(positions)

    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        for layer in self.layers:
            layer[:, target] = layer[:, source]

    def _blocks(self, positions: int) -> int:
        """Round a number of positions up to whole blocks."""
        return math.ceil(positions / self._block) * self._block

    def _set_views(self, positions: int) -> None:
        """Lay the memory out for this many positions."""
        self.positions = positions
        """T, the number of positions that there is room for."""
        self.layers = [self._view(memory, positions) for memory in self._memory]
        """Keys and then values of each layer: float32 [2, rows, heads, T, head_width]."""

    def _view(self, memory: Tensor, positions: int) -> Tensor:
        """Return a layer's memory as [2, rows, heads, T, head_width]."""
        shape = (2, self.capacity, self._heads, positions, self._head_width)
        return memory[: math.prod(shape)].view(shape)


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Compute attention with one query per row and head.

    Args:
        q: scaled queries, float32 [B, heads, head_width].
        keys: float32 [B, heads, T, head_width].
        values: float32 [B, heads, T, head_width].
        mask: 0 or -inf, added to the scores, [1 or B * heads, 1, T].

    Returns:
        float32 [B, E].
    """
    batch, heads, head_width = q.shape
    rows = batch * heads
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)  # [B * heads, T, head_width]
    scores = torch.baddbmm(mask, q.reshape(rows, 1, head_width), keys.mT)  # [B * heads, 1, T]
    return torch.bmm(scores.softmax(-1), values).view(batch, heads * head_width)
