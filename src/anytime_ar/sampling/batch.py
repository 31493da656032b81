"""A batch of independent rows that grows by one code per row at every step.

Each row has its own random numbers, conditions, sampling parameters and position. Rows are added
while slots are free and removed when they are complete (continuous batching). The codes of a row do
not depend on the other rows.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anytime_ar.codes import check_codes
from anytime_ar.conditions import Conditions
from anytime_ar.errors import InputError
from anytime_ar.prior import PriorDecoder, RowSamplingParams, SamplingParams, link_rows
from anytime_ar.prior.decoders.base import int64_tensor
from anytime_ar.runtime.tensors import BoundToProcess
from anytime_ar.runtime.torch_modes import default_torch_modes

MAX_ROWS = 1024
"""Maximum number of rows sampled or decoded together."""


class DecodeBatch(BoundToProcess):
    """A batch that draws one code per row and step; each guidance of a row takes one more slot.

    Args:
        decoder: decoder of the prior that gives the probabilities.
        capacity: number of slots.
    """

    @default_torch_modes()
    def __init__(self, decoder: PriorDecoder[Any], capacity: int) -> None:
        """Allocate the slots in the memory of the decoder."""
        self.decoder, self.capacity = decoder, capacity
        self._rows = decoder.allocate(capacity)
        weakref.finalize(self, decoder.release, self._rows)
        # By row ID: the slot of the row, and those of its unconditional rows for guidance.
        self._slots: dict[int, list[int]] = {}
        self._slot_ids: list[int] = []  # row IDs by slot
        self._scheduled: dict[int, SamplingParams] = {}  # by row ID, with a schedule
        self._fixed_codes: Tensor | None = None  # by slot, int64 [capacity, L], -1: drawn
        self._with_fixed_codes: set[int] = set()  # row IDs
        self._log_probabilities = torch.zeros(
            capacity, dtype=torch.float64, device="cpu"
        )  # by slot
        self._scored: set[int] = set()  # row IDs
        self._next_id = 0

    def __repr__(self) -> str:
        """Return the numbers of occupied slots and of all slots."""
        taken = len(self._slot_ids)
        return (
            f"DecodeBatch({taken} of {self.capacity} rows, code_length={self.decoder.code_length})"
        )

    @property
    def free_slots(self) -> int:
        """Number of slots that are free; a guided row needs two."""
        return self.capacity - len(self._slot_ids)

    @default_torch_modes()
    def add(
        self,
        noise: Tensor,
        labels: Tensor | None,
        sampling_params: SamplingParams,
        codes: Tensor | None = None,
        fixed_codes: Tensor | None = None,
        conditions: Conditions | None = None,
        *,
        scored: bool = False,
    ) -> list[int]:
        """Add n rows to the batch.

        Args:
            noise: float64 [n, L] in [0, 1), one number per code; see `uniform_noise`.
            labels: int64 [n]; None: rows without a label.
            sampling_params: temperature, top-k, top-p and guidance of these rows.
            codes: int64 [n, k], k < L, drawn earlier; the rows continue after them, with the same
                codes as without the interruption.
            fixed_codes: int64 [n, L], codes that take the place of those drawn, and -1 elsewhere.
            conditions: n rows for each condition of the prior; None: none is given.
            scored: whether `log_probabilities` is to be called for these rows.

        Returns:
            One ID per row, which the other methods take.

        Raises:
            InputError: not enough slots are free, or a label or code is out of range.
        """
        self._check_inputs(labels, codes, fixed_codes)
        n = len(noise)
        guidance = guidance_conditions(sampling_params, labels, conditions)
        if n * (1 + len(guidance)) > self.free_slots:
            raise InputError(
                f"{n} {'guided ' if guidance else ''}rows do not fit: {len(self._slot_ids)} of "
                f"{self.capacity} places are taken; let rows leave first, or make a larger batch"
            )
        first = len(self._slot_ids)
        ids = list(range(self._next_id, self._next_id + n))
        self._next_id += n
        for i, row in enumerate(ids):
            self._slots[row] = [first + i + n * j for j in range(1 + len(guidance))]
        self._append(ids, noise, labels, conditions, codes, fixed_codes)
        for hidden in guidance:
            self._append(ids, noise, *self._without(hidden, labels, conditions), codes, fixed_codes)
        for row in ids:
            self._set_params(row, sampling_params)
        if sampling_params.has_schedule:
            self._scheduled |= dict.fromkeys(ids, sampling_params)
        if fixed_codes is not None:
            self._with_fixed_codes |= set(ids)
        if scored:
            self._scored |= set(ids)
            self._log_probabilities[first : first + n] = 0
        return ids

    def _without(
        self, hidden: str | None, labels: Tensor | None, conditions: Conditions | None
    ) -> tuple[Tensor | None, Conditions | None]:
        """Return labels and conditions of which one is hidden; None: all are."""
        if hidden is None:
            return None, None
        if hidden == "label" or conditions is None:
            return None, conditions
        rows = conditions[hidden]
        without = self.decoder.conditions[hidden].hidden.to(rows.device).expand_as(rows)
        return labels, {**conditions, hidden: without}

    def _check_inputs(
        self, labels: Tensor | None, codes: Tensor | None, fixed_codes: Tensor | None
    ) -> None:
        """Raise an error for labels and codes outside the embedding tables."""
        most = self.decoder.no_label
        if labels is not None and not ((labels >= 0) & (labels <= most)).all():
            raise InputError(f"labels {labels.tolist()} are not all in 0..{most}; pass such ones")
        given = None if fixed_codes is None else fixed_codes.masked_fill(fixed_codes == -1, 0)
        for one in (codes, given):
            if one is not None:
                vocabulary = self.decoder.vocabulary
                check_codes(one, code_length=self.decoder.code_length, vocabulary=vocabulary)

    def _set_params(self, row: int, sampling_params: SamplingParams) -> None:
        """Set the sampling parameters of a row for its next code."""
        slots, params = self._slots[row], self._rows.sampling_params
        now = sampling_params.at_position(self._rows.positions[slots[0]], self.decoder.code_length)
        params[slots[0]] = RowSamplingParams.of(now)
        names = (name for name, _ in sampling_params.guidance_scales)
        for slot, name in zip(slots[1:], names, strict=False):
            scale = now.guidance_of(name)
            assert isinstance(scale, float | int)
            params[slot] = RowSamplingParams.of(now, scale)
        link_rows(params, slots)

    def _append(
        self,
        ids: Sequence[int],
        noise: Tensor,
        labels: Tensor | None,
        conditions: Conditions | None,
        codes: Tensor | None,
        fixed_codes: Tensor | None,
    ) -> None:
        first, n = len(self._slot_ids), len(ids)
        slots = slice(first, first + n)
        drawn = 0 if codes is None else codes.shape[1]
        self._slot_ids += ids
        self._rows.noise[slots] = noise
        if labels is None:
            labels = torch.full((n,), self.decoder.no_label, dtype=torch.int64, device="cpu")
        self.decoder.set_conditions(self._rows, first, labels, conditions)
        self._rows.positions[slots] = [drawn] * n
        if fixed_codes is not None and self._fixed_codes is None:
            self._fixed_codes = torch.full_like(self._rows.codes, -1)
        if self._fixed_codes is not None:
            self._fixed_codes[slots] = -1 if fixed_codes is None else fixed_codes
        if codes is not None:
            self._rows.codes[slots, :drawn] = codes
            self.decoder.prefill(self._rows, first, n)

    def step(self) -> None:
        """Draw the next code of every row, none of which may be complete."""
        assert self._slot_ids, "an empty batch has nothing to draw"
        for row, sampling_params in self._scheduled.items():
            self._set_params(row, sampling_params)
        count = len(self._slot_ids)
        logits: Tensor | None = None
        if self._scored:
            logits = self.decoder.step_with_logits(self._rows, count)
        else:
            self.decoder.step(self._rows, count)
        if self._with_fixed_codes:
            self._write_fixed_codes()
        if logits is not None:
            last = int64_tensor(self._rows.positions[:count], logits.device)[:, None] - 1
            drawn = self._rows.codes[:count].to(logits.device).gather(1, last)
            vocabulary = self.decoder.vocabulary
            if not isinstance(vocabulary, int):  # a code has no values from its vocabulary on
                sizes = int64_tensor(vocabulary, logits.device)[last]
                values = int64_tensor(range(logits.shape[1]), logits.device)
                logits = logits.masked_fill(values >= sizes, -torch.inf)
            found = logits.double().log_softmax(-1).gather(1, drawn)[:, 0]
            self._log_probabilities[:count] += found.cpu()

    def _write_fixed_codes(self) -> None:
        """Replace the codes that were just drawn by those that are given.

        A decoder reads the code of a position in the next step, so drawing goes on from them.
        """
        assert self._fixed_codes is not None
        count = len(self._slot_ids)
        codes = self._rows.codes[:count]
        last = int64_tensor(self._rows.positions[:count], codes.device)[:, None] - 1
        fixed = self._fixed_codes[:count].gather(1, last)
        codes.scatter_(1, last, fixed.where(fixed >= 0, codes.gather(1, last)))

    @default_torch_modes()
    def codes(self, ids: Sequence[int]) -> Tensor:
        """Return the codes so far of rows at the same position: int64 [n, k]."""
        slots = [self._slots[row][0] for row in ids]
        drawn = self._rows.positions[slots[0]]
        if slots == list(range(slots[0], slots[0] + len(slots))):
            return self._rows.codes[slots[0] : slots[0] + len(slots), :drawn].clone()
        return self._rows.codes[slots, :drawn]

    def log_probabilities(self, ids: Sequence[int]) -> Tensor:
        """Return the log-probability that the prior gives the codes of scored rows.

        It is that of the label, without guidance and the other sampling parameters.

        Returns:
            float64 [n] on the CPU, in nats.
        """
        return self._log_probabilities[[self._slots[row][0] for row in ids]]

    def keep_best(self, ids: Sequence[int], scores: Tensor, count: int) -> list[int]:
        """Keep the best of each `count` rows, score it no longer, and remove the others.

        Args:
            ids: IDs of n * count rows, those of the first group first.
            scores: float [n * count], higher for better ones; the first of equal ones is kept.
            count: rows of a group.

        Returns:
            The ID of the row of each group.
        """
        best = np.asarray(scores.cpu()).reshape(-1, count).argmax(1)
        kept = [ids[group * count + row] for group, row in enumerate(best)]
        self.remove(sorted(set(ids) - set(kept)))
        self._scored -= set(kept)
        return kept

    def codes_drawn(self, row: int) -> int:
        """Return the number of codes that a row has."""
        return self._rows.positions[self._slots[row][0]]

    def remove(self, ids: Sequence[int]) -> None:
        """Remove rows and free their slots, so that they cost nothing any more."""
        gone = set(ids)
        keep = sum(owner not in gone for owner in self._slot_ids)
        holes = [slot for slot in range(keep) if self._slot_ids[slot] in gone]
        movers = [s for s in range(keep, len(self._slot_ids)) if self._slot_ids[s] not in gone]
        for hole, mover in zip(holes, movers, strict=True):  # the last rows fill the free slots
            self._move_slot(mover, hole)
        for row in ids:
            del self._slots[row]
            self._scheduled.pop(row, None)
        self._with_fixed_codes -= gone
        self._scored -= gone
        del self._slot_ids[keep:]
        if keep == 0:
            self._rows.cache.clear()

    def _move_slot(self, source: int, target: int) -> None:
        self._rows.copy_row(source, target)
        if self._fixed_codes is not None:
            self._fixed_codes[target] = self._fixed_codes[source]
        self._log_probabilities[target] = self._log_probabilities[source]
        self._slot_ids[target] = owner = self._slot_ids[source]
        slots = self._slots[owner]
        slots[slots.index(source)] = target
        link_rows(self._rows.sampling_params, slots)


def guidance_conditions(
    sampling_params: SamplingParams, labels: Tensor | None, conditions: Conditions | None
) -> list[str | None]:
    """Return the condition that each unconditional row of a sample hides; None: all of them.

    Args:
        sampling_params: has the scales of guidance.
        labels: labels of the samples; None: they have none.
        conditions: conditions of the samples; None: they have none.
    """
    if labels is None and not conditions:
        return []
    return [name for name, _ in sampling_params.guidance_scales]
