"""Caches of the rows of a batch: what a prior remembers of the codes so far."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor


class KVCache(abc.ABC):
    """What a prior remembers of each row of a batch: keys and values, or a recurrent state.

    The caller owns the cache, not the prior, so that several batches on one prior do not affect one
    another.

    Args:
        capacity: maximum number of rows.
        tensors: memory of all rows.
    """

    def __init__(self, capacity: int, tensors: Sequence[Tensor]) -> None:
        """Keep the memory for `capacity` rows."""
        self.capacity, self.tensors = capacity, tensors

    @property
    def row_bytes(self) -> int:
        """Return the memory of one row, in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors) // self.capacity

    @abc.abstractmethod
    def clear(self) -> None:
        """Forget all rows, but do not free the memory."""

    @abc.abstractmethod
    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""


class TensorCache(KVCache):
    """A cache that is a list of tensors [capacity, *shape], such as recurrent states.

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
        super().__init__(
            capacity, [torch.zeros(capacity, *s, dtype=dtype, device=device) for s in shapes]
        )

    def clear(self) -> None:
        """Do nothing: a row is written at its first position before it is read."""

    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        for tensor in self.tensors:
            tensor[target] = tensor[source]
