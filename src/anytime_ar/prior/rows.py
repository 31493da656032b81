"""The rows of a batch in the making: what each is drawn with, and what it has."""

from __future__ import annotations

import ctypes
from typing import Generic, Protocol, TypeVar

import torch

from anytime_ar.prior.choice import RowSamplingParams


class KVCache(Protocol):
    """What a prior remembers of the rows that it is drawing.

    A value of the caller, never of the prior, so that several draws on one prior do not disturb
    one another.
    """

    @property
    def capacity(self) -> int:
        """How many rows there is room for."""
        ...

    @property
    def row_bytes(self) -> int:
        """Memory that one row takes."""
        ...

    def clear(self) -> None:
        """Forget everything, keeping the memory."""
        ...

    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        ...


CacheT = TypeVar("CacheT", bound=KVCache)


class DecodeState(Generic[CacheT]):
    """A slot for each row, in plain memory that a kernel reads and writes as well.

    Args:
        cache: has room for as many rows as there will be.
        code_length: L.
        device: where codes are chosen.
    """

    def __init__(self, cache: CacheT, code_length: int, device: torch.device) -> None:
        capacity = cache.capacity
        self.cache = cache
        self.codes = torch.zeros(capacity, code_length, dtype=torch.int64, device=device)
        """[capacity, L], of each row its first `positions[slot]`."""
        self.noise = torch.zeros(capacity, code_length, dtype=torch.float64, device=device)
        """In [0, 1), the number that decides each code: [capacity, L]."""
        self.labels = torch.zeros(capacity, dtype=torch.int64, device=device)
        """[capacity], in 0..no_label."""
        self.positions = (ctypes.c_int64 * capacity)()
        """How many codes each row has."""
        self.sampling_params = (RowSamplingParams * capacity)()
        """How codes are chosen."""

    def __len__(self) -> int:
        """How many slots there are."""
        return len(self.positions)

    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        self.cache.copy_row(source, target)
        for tensor in (self.codes, self.noise, self.labels):
            tensor[target] = tensor[source]
        self.positions[target] = self.positions[source]
        self.sampling_params[target] = self.sampling_params[source]
