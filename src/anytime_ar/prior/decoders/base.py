"""The rows of a batch in the making: what each is drawn with, and what it has."""

from __future__ import annotations

import abc
import ctypes
from collections import deque
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from anytime_ar.prior.sampling_params import RowSamplingParams
from anytime_ar.prior.transformer import Prior


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


Precision = Literal["float32", "bfloat16", "int8"]
"""What weights and the inputs of matrix products are rounded to while drawing. int8 has a scale for
every output of a map, and for every row of its input."""

MAX_POOLED_BYTES = 2**29
"""The most memory that is held between draws."""

StateT = TypeVar("StateT", bound=DecodeState[Any])


class PriorDecoder(abc.ABC, Generic[StateT]):
    """A prior laid out for drawing; to be made anew when the prior's weights have changed.

    Every row of a batch may stand at a position of its own, and gets the logits and the code that
    it would get alone, to the last bit.

    Args:
        prior: in evaluation mode, on the device to draw on.
        precision: what weights and inputs of matrix products are rounded to; sums, norms and the
            residual stream stay in float32.
    """

    def __init__(self, prior: Prior, precision: Precision) -> None:
        self.precision = precision
        self.code_length, self.vocabulary = prior.code_length, prior.vocabulary
        self.no_label = prior.no_label
        self.device = prior.code_embedding.weight.device
        self._code_embeddings = prior.full_embeddings().detach()  # [tables * V, E]
        self._position_embeddings, self._table_of_position = (
            prior.position_embedding.detach(),
            prior.table_of_position,
        )
        self._first_inputs = (
            prior.label_embedding.weight.detach() + self._position_embeddings[0]
        )  # [labels + 1, E]
        self._added_label_embeddings: Tensor | None = None  # [labels + 1, E]
        if prior.added_label_embedding is not None:
            self._added_label_embeddings = prior.added_label_embedding.weight.detach()
            self._first_inputs = self._first_inputs + self._added_label_embeddings
        # Threads take and give without a lock, which a fork might find taken for ever.
        self._pool: deque[StateT] = deque(maxlen=1)

    def allocate(self, capacity: int) -> StateT:
        """Slots for that many rows, or more."""
        spare = self._take_pooled()
        if spare is not None and len(spare) >= capacity:
            spare.cache.clear()
            return spare
        return self._new_state(capacity)

    def release(self, state: StateT) -> None:
        """Take back what nobody uses any more, for the next draw: memory that is fresh from the
        system costs as much time as a good part of the draw."""
        if state.cache.row_bytes * len(state) <= MAX_POOLED_BYTES:
            spare = self._take_pooled()
            self._pool.append(state if spare is None or len(spare) < len(state) else spare)

    def _take_pooled(self) -> StateT | None:
        try:
            return self._pool.pop()
        except IndexError:
            return None

    @cached_property
    def row_bytes(self) -> int:
        """Memory that keys and values of one row take."""
        return self._new_cache(1, torch.device("meta")).row_bytes

    @abc.abstractmethod
    def step(self, state: StateT, count: int) -> None:
        """Draw the next code of the first `count` rows, none of which may be complete.

        Args:
            state: the cache of each is filled below its position; codes and positions are updated.
            count: how many.
        """

    @abc.abstractmethod
    def logits(self, state: StateT, count: int) -> Tensor:
        """Logits that `step` would choose by; no code is drawn.

        Returns:
            float32 [count, V], equal to `Prior.forward(codes)[i, positions[i]]` up to rounding.
        """

    @abc.abstractmethod
    def prefill(self, state: StateT, first: int, count: int) -> None:
        """Fill the cache as if the codes of some rows had been drawn, bit for bit.

        Args:
            state: those from `first` on have labels, codes, and one position, at least 1.
            first: the first of them.
            count: how many.
        """

    @abc.abstractmethod
    def matmul_only(self, rows: int) -> None:
        """The matrix products of a complete draw of `rows` rows and nothing else: a floor to
        measure drawing against."""

    @abc.abstractmethod
    def _new_state(self, capacity: int) -> StateT:
        """Fresh slots."""

    @abc.abstractmethod
    def _new_cache(self, capacity: int, device: torch.device) -> KVCache:
        """A fresh cache; on the device `meta`, one without memory."""
