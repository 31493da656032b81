"""The decode path of a prior: one code for every row of a batch, from what its earlier ones left.

The same distribution as `Prior.forward`, with weights laid out for products with few rows. There
are two ways to compute it: `native`, one call into our own kernel, on CPUs with a C++ compiler, and
`portable`, operation by operation in PyTorch, everywhere else. Letters as in `transformer`.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from anytime_ar.prior.transformer import Prior

Precision = Literal["float32", "bfloat16", "int8"]
"""What weights and the inputs of matrix products are rounded to while drawing. int8 has a scale for
every output of a map, and for every row of its input."""

SPARE_BYTES = 2**28
"""The most memory that is held between draws."""


class Cache(Protocol):
    """What a prior remembers of the rows that it is drawing.

    A value of the caller, never of the prior, so that several draws on one prior do not disturb
    one another.
    """

    @property
    def rows(self) -> int:
        """How many rows there is room for."""
        ...

    @property
    def row_bytes(self) -> int:
        """Memory that one row takes."""
        ...

    def clear(self) -> None:
        """Forget everything, keeping the memory."""
        ...

    def move(self, source: int, target: int) -> None:
        """Copy one row over another."""
        ...


CacheT = TypeVar("CacheT", bound=Cache)


class Decoder(abc.ABC, Generic[CacheT]):
    """A prior laid out for drawing; to be made anew when the prior's weights have changed.

    Every row of a batch may stand at a position of its own, and gets the logits that it would get
    alone, to the last bit.

    Args:
        prior: in evaluation mode, on the device to draw on.
        precision: what weights and inputs of matrix products are rounded to; sums, norms and the
            residual stream stay in float32.
    """

    def __init__(self, prior: Prior, precision: Precision) -> None:
        self.precision = precision
        self.code_length, self.vocabulary = prior.code_length, prior.vocabulary
        self.no_label = prior.no_label
        self.device = prior.entries.weight.device
        self._entries, self._positions = prior.entries.weight.detach(), prior.positions.detach()
        self._first = prior.start.weight.detach() + self._positions[0]  # [labels + 1, E]
        self._spare: CacheT | None = None
        self._lock = threading.Lock()

    def allocate(self, rows: int) -> CacheT:
        """An empty cache for `rows` rows."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None and spare.rows == rows:
            spare.clear()
            return spare
        return self._new_cache(rows, self.device)

    def release(self, cache: CacheT) -> None:
        """Take back a cache that nobody uses any more: the next draw of its size gets it, because
        memory that is fresh from the system costs as much time as a good part of the draw."""
        if cache.row_bytes * cache.rows <= SPARE_BYTES:
            with self._lock:
                self._spare = cache

    @cached_property
    def row_bytes(self) -> int:
        """Memory that the cache takes for one row."""
        return self._new_cache(1, torch.device("meta")).row_bytes

    def empty_inputs(self, rows: int) -> Tensor:
        """Room for the inputs of some rows: float32 [rows, E]."""
        return self._entries.new_empty(rows, self._entries.shape[1])

    def first_inputs(self, labels: Tensor) -> Tensor:
        """Inputs at position 0: labels int64 [B] in 0..no_label -> float32 [B, E]."""
        return self._first[labels]

    def next_inputs(self, codes: Tensor, positions: int | Tensor) -> Tensor:
        """Inputs at `positions` (1..L-1, one or [B]) from the codes before: int64 [B] ->
        float32 [B, E]."""
        rows = codes + (positions - 1) * self.vocabulary
        return self._entries[rows] + self._positions[positions]

    @abc.abstractmethod
    def step(self, cache: CacheT, inputs: Tensor, positions: Sequence[int]) -> Tensor:
        """Logits of each row's code at its position, after writing what it sees into the cache.

        Args:
            cache: row i is filled below `positions[i]`; updated in place.
            inputs: float32 [B, E], see `first_inputs` and `next_inputs`.
            positions: B numbers in 0..L-1.

        Returns:
            float32 [B, V], equal to `Prior.forward(codes)[i, positions[i]]` up to rounding.
        """

    @abc.abstractmethod
    def replay(self, cache: CacheT, row: int, first: Tensor, codes: Tensor) -> None:
        """Fill the cache as if `codes` had been drawn, bit for bit.

        Args:
            cache: rows `row` to `row + B` are written at positions 0..k-1.
            row: the first row to write.
            first: float32 [B, E], see `first_inputs`.
            codes: int64 [B, k], 1 <= k <= L.
        """

    @abc.abstractmethod
    def multiply_only(self, rows: int) -> None:
        """The matrix products of a complete draw of `rows` rows and nothing else: a floor to
        measure drawing against."""

    @abc.abstractmethod
    def _new_cache(self, rows: int, device: torch.device) -> CacheT:
        """A fresh cache; on the device `meta`, one without memory."""
