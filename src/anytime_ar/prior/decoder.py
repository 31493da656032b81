"""The decode path of a prior: one code for every row of a batch, from what its earlier ones left.

The same distribution as `Prior.forward`, with weights laid out for products with few rows. There
are two ways to compute it: `native`, one call into our own kernel, on CPUs, and
`portable`, operation by operation in PyTorch, everywhere else. Letters as in `transformer`.
"""

from __future__ import annotations

import abc
from collections import deque
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from anytime_ar.prior.rows import DecodeState, KVCache
from anytime_ar.prior.transformer import Prior

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
        self.device = prior.entries.weight.device
        self._code_embeddings = prior.full_embeddings().detach()  # [tables * V, E]
        self._position_embeddings, self._table_of_position = (
            prior.positions.detach(),
            prior.table_of_position,
        )
        self._first_inputs = (
            prior.start.weight.detach() + self._position_embeddings[0]
        )  # [labels + 1, E]
        self._added_label_embeddings: Tensor | None = None  # [labels + 1, E]
        if prior.reminder is not None:
            self._added_label_embeddings = prior.reminder.weight.detach()
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
