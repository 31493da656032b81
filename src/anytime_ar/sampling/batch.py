"""Rows that are drawn together: one code for each at every step.

Rows are strangers to one another. Each has its own numbers, label, settings and position, joins
when there is room, leaves when it is done, and gets the codes that it would get alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anytime_ar.codes import check_codes
from anytime_ar.errors import InputError
from anytime_ar.prior import (
    IS_UNCONDITIONAL,
    NO_UNCONDITIONAL,
    PriorDecoder,
    RowSamplingParams,
    SamplingParams,
)
from anytime_ar.runtime.torch_modes import default_torch_modes


class DecodeBatch:
    """Draws one code at a time for up to `capacity` rows; a guided row takes the room of two.

    Args:
        decoder: of the prior to draw from.
        capacity: how many rows there is room for.
    """

    @default_torch_modes()
    def __init__(self, decoder: PriorDecoder[Any], capacity: int) -> None:
        self.decoder, self.capacity = decoder, capacity
        self._rows = decoder.allocate(capacity)
        weakref.finalize(self, decoder.release, self._rows)
        self._slots: dict[int, int] = {}  # by id; a guided row has a second one, its shadow
        self._slot_ids: list[int] = []  # ids by slot
        self._scheduled: dict[int, SamplingParams] = {}  # by id, where it depends on the position
        self._next_id = 0

    def __repr__(self) -> str:
        taken = len(self._slot_ids)
        return (
            f"DecodeBatch({taken} of {self.capacity} rows, code_length={self.decoder.code_length})"
        )

    @property
    def free_slots(self) -> int:
        """How many more rows may join; guided ones count twice."""
        return self.capacity - len(self._slot_ids)

    @default_torch_modes()
    def add(
        self,
        noise: Tensor,
        labels: Tensor | None,
        sampling_params: SamplingParams,
        codes: Tensor | None = None,
    ) -> list[int]:
        """Take in n rows.

        Args:
            noise: float64 [n, L] in [0, 1); see `row_noise`.
            labels: int64 [n]; None: draw without one.
            sampling_params: temperature, top-k, top-p and guidance of these rows.
            codes: int64 [n, k], k < L, drawn before; what follows is what would have followed then.

        Returns:
            An id for each row, by which it is asked for later.

        Raises:
            InputError: there is no room, or labels or codes are not of this prior.
        """
        self._check_inputs(labels, codes)
        n = len(noise)
        guided = labels is not None and sampling_params.guided
        if n * (1 + guided) > self.free_slots:
            raise InputError(
                f"{n} {'guided ' if guided else ''}rows do not fit: {len(self._slot_ids)} of "
                f"{self.capacity} places are taken; let rows leave first, or make a larger batch"
            )
        first = len(self._slot_ids)
        ids = list(range(self._next_id, self._next_id + n))
        self._next_id += n
        for i, row in enumerate(ids):
            self._slots[row] = first + i
            shadow = first + n + i if guided else NO_UNCONDITIONAL
            self._rows.sampling_params[first + i].unconditional_slot = shadow
        self._append(ids, noise, labels, codes)
        if guided:
            for shadow in range(first + n, first + 2 * n):
                self._rows.sampling_params[shadow].unconditional_slot = IS_UNCONDITIONAL
            self._append(ids, noise, None, codes)
        for row in ids:
            self._set_params(row, sampling_params)
        if sampling_params.has_schedule:
            self._scheduled |= dict.fromkeys(ids, sampling_params)
        return ids

    def _check_inputs(self, labels: Tensor | None, codes: Tensor | None) -> None:
        """Refuse what would be looked up beyond the end of a table."""
        most = self.decoder.no_label
        if labels is not None and not ((labels >= 0) & (labels <= most)).all():
            raise InputError(f"labels {labels.tolist()} are not all in 0..{most}; pass such ones")
        if codes is not None:
            vocabulary = self.decoder.vocabulary
            check_codes(codes, code_length=self.decoder.code_length, vocabulary=vocabulary)

    def _set_params(self, row: int, sampling_params: SamplingParams) -> None:
        """For the next code of a row."""
        slot = self._slots[row]
        now = sampling_params.at_position(self._rows.positions[slot], self.decoder.code_length)
        self._rows.sampling_params[slot] = RowSamplingParams.of(
            now, self._rows.sampling_params[slot].unconditional_slot
        )

    def _append(
        self, ids: Sequence[int], noise: Tensor, labels: Tensor | None, codes: Tensor | None
    ) -> None:
        first, n = len(self._slot_ids), len(ids)
        slots = slice(first, first + n)
        drawn = 0 if codes is None else codes.shape[1]
        self._slot_ids += ids
        self._rows.noise[slots] = noise
        self._rows.labels[slots] = self.decoder.no_label if labels is None else labels
        self._rows.positions[slots] = [drawn] * n
        if codes is not None:
            self._rows.codes[slots, :drawn] = codes
            self.decoder.prefill(self._rows, first, n)

    def step(self) -> None:
        """Draw the next code of every row; none of them may be complete."""
        assert self._slot_ids, "an empty batch has nothing to draw"
        for row, choice in self._scheduled.items():
            self._set_params(row, choice)
        self.decoder.step(self._rows, len(self._slot_ids))

    @default_torch_modes()
    def codes(self, ids: Sequence[int]) -> Tensor:
        """Codes so far of rows at the same position: int64 [n, k]."""
        slots = [self._slots[row] for row in ids]
        drawn = self._rows.positions[slots[0]]
        if slots == list(range(slots[0], slots[0] + len(slots))):
            return self._rows.codes[slots[0] : slots[0] + len(slots), :drawn].clone()
        return self._rows.codes[slots, :drawn]

    def codes_drawn(self, row: int) -> int:
        """How many codes a row has."""
        return self._rows.positions[self._slots[row]]

    def remove(self, ids: Sequence[int]) -> None:
        """Let rows go; they cost nothing from now on."""
        gone = set(ids)
        keep = sum(owner not in gone for owner in self._slot_ids)
        holes = [slot for slot in range(keep) if self._slot_ids[slot] in gone]
        movers = [s for s in range(keep, len(self._slot_ids)) if self._slot_ids[s] not in gone]
        for hole, mover in zip(holes, movers, strict=True):  # the last ones close the holes
            self._move_slot(mover, hole)
        for row in ids:
            del self._slots[row]
            self._scheduled.pop(row, None)
        del self._slot_ids[keep:]
        if keep == 0:
            self._rows.cache.clear()

    def _move_slot(self, source: int, target: int) -> None:
        self._rows.copy_row(source, target)
        self._slot_ids[target] = owner = self._slot_ids[source]
        if self._slots[owner] == source:
            self._slots[owner] = target
        else:
            self._rows.sampling_params[self._slots[owner]].unconditional_slot = target
