"""Rows that are drawn together: one code for each at every step.

Rows are strangers to one another. Each has its own numbers, label, settings and position, joins
when there is room, leaves when it is done, and gets the codes that it would get alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.prior import Decoder
from anytime_ar.sampling.choice import ChoiceConfig, choose, guide


@dataclass
class _Row:
    """One sample in the making."""

    slot: int
    """Its place in the tensors of the batch."""
    shadow: int | None
    """The place where it is drawn along without its label, for guidance."""
    choice: ChoiceConfig


@dataclass(frozen=True)
class _Group:
    """Rows with the same settings, by slot."""

    choice: ChoiceConfig
    slots: Tensor
    shadows: Tensor | None


class DecodeBatch:
    """Draws one code at a time for up to `capacity` rows; a guided row takes the room of two.

    Args:
        decoder: of the prior to draw from.
        capacity: how many rows there is room for.
    """

    def __init__(self, decoder: Decoder[Any], capacity: int) -> None:
        self.decoder, self.capacity = decoder, capacity
        self._cache = decoder.allocate(capacity)
        weakref.finalize(self, decoder.release, self._cache)
        # Codes are chosen in float64, which not every device has.
        self._chooses_on = torch.device("cpu") if decoder.device.type == "mps" else decoder.device
        length = decoder.code_length
        self._noise = torch.empty(capacity, length, dtype=torch.float64, device=self._chooses_on)
        self._codes = torch.empty(capacity, length, dtype=torch.int64, device=self._chooses_on)
        self._inputs = decoder.empty_inputs(capacity)
        self._rows: dict[int, _Row] = {}  # by id
        self._owners: list[int] = []  # ids by slot
        self._positions: list[int] = []  # by slot: how many codes there are
        self._groups: list[_Group] | None = None  # None: membership changed
        self._next_id = 0

    @property
    def room(self) -> int:
        """How many more rows may join; guided ones count twice."""
        return self.capacity - len(self._owners)

    def join(
        self,
        noise: Tensor,
        labels: Tensor | None,
        choice: ChoiceConfig,
        codes: Tensor | None = None,
    ) -> list[int]:
        """Take in n rows.

        Args:
            noise: float64 [n, L] in [0, 1); see `row_noise`.
            labels: int64 [n]; None: draw without one.
            choice: temperature, top-k, top-p and guidance of these rows.
            codes: int64 [n, k], k < L, drawn before; what follows is what would have followed then.

        Returns:
            An id for each row, by which it is asked for later.

        Raises:
            InputError: there is no room.
        """
        n = len(noise)
        guided = labels is not None and choice.guidance != 1
        if n * (1 + guided) > self.room:
            raise InputError(
                f"{n} {'guided ' if guided else ''}rows do not fit: {len(self._owners)} of "
                f"{self.capacity} places are taken; let rows leave first, or make a larger batch"
            )
        if labels is None:
            labels = torch.full((n,), self.decoder.no_label)
        first = len(self._owners)
        ids = list(range(self._next_id, self._next_id + n))
        self._next_id += n
        for i, row in enumerate(ids):
            self._rows[row] = _Row(first + i, first + n + i if guided else None, choice)
        self._append(ids, noise, labels, codes)
        if guided:
            self._append(ids, noise, torch.full((n,), self.decoder.no_label), codes)
        self._groups = None
        return ids

    def _append(
        self, ids: Sequence[int], noise: Tensor, labels: Tensor, codes: Tensor | None
    ) -> None:
        slots = slice(len(self._owners), len(self._owners) + len(ids))
        drawn = 0 if codes is None else codes.shape[1]
        self._owners += ids
        self._positions += [drawn] * len(ids)
        self._noise[slots] = noise.to(self._chooses_on)
        first = self.decoder.first_inputs(labels.to(self.decoder.device))
        if codes is None:
            self._inputs[slots] = first
            return
        self._codes[slots, :drawn] = codes.to(self._chooses_on)
        codes = codes.to(self.decoder.device)
        self.decoder.replay(self._cache, slots.start, first, codes)
        if drawn < self.decoder.code_length:
            self._inputs[slots] = self.decoder.next_inputs(codes[:, -1], drawn)

    def step(self) -> None:
        """Draw the next code of every row; none of them may be complete."""
        used, length = len(self._owners), self.decoder.code_length
        assert used, "an empty batch has nothing to draw"
        assert max(self._positions) < length, "complete rows have to leave"
        logits = self.decoder.step(self._cache, self._inputs[:used], self._positions)
        logits = logits.to(self._chooses_on)
        if min(self._positions) == max(self._positions):
            position = self._positions[0]
            chosen = self._choose(logits, self._noise[:used, position])
            self._codes[:used, position] = chosen
            following: int | Tensor = position + 1
        else:
            at = torch.tensor(self._positions, device=self._chooses_on)[:, None]  # [used, 1]
            chosen = self._choose(logits, self._noise[:used].gather(1, at)[:, 0])
            self._codes[:used].scatter_(1, at, chosen[:, None])
            following = (at[:, 0] + 1).clamp(max=length - 1).to(self.decoder.device)
        self._positions = [position + 1 for position in self._positions]
        if min(self._positions) < length:
            codes = chosen.to(self.decoder.device)
            self._inputs[:used] = self.decoder.next_inputs(codes, following)

    def _choose(self, logits: Tensor, noise: Tensor) -> Tensor:
        """The next code of every slot: float [used, V], float64 [used] -> int64 [used]."""
        if self._groups is None:
            self._groups = self._grouped()
        if len(self._groups) == 1 and self._groups[0].shadows is None:
            return choose(logits, noise, self._groups[0].choice)
        chosen = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
        for group in self._groups:
            scores = logits[group.slots]
            if group.shadows is not None:
                scores = guide(scores, logits[group.shadows], group.choice.guidance)
            codes = choose(scores, noise[group.slots], group.choice)
            chosen[group.slots] = codes
            if group.shadows is not None:
                chosen[group.shadows] = codes
        return chosen

    def codes(self, ids: Sequence[int]) -> Tensor:
        """Codes so far of rows at the same position: int64 [n, k]."""
        slots = [self._rows[row].slot for row in ids]
        drawn = self._positions[slots[0]]
        if slots == list(range(slots[0], slots[0] + len(slots))):
            return self._codes[slots[0] : slots[0] + len(slots), :drawn].clone()
        return self._codes[slots, :drawn]

    def drawn(self, row: int) -> int:
        """How many codes a row has."""
        return self._positions[self._rows[row].slot]

    def leave(self, ids: Sequence[int]) -> None:
        """Let rows go; they cost nothing from now on."""
        gone = [self._rows.pop(row) for row in ids]
        slots = {slot for row in gone for slot in (row.slot, row.shadow) if slot is not None}
        keep = len(self._owners) - len(slots)
        holes = sorted(slot for slot in slots if slot < keep)
        movers = [slot for slot in range(keep, len(self._owners)) if slot not in slots]
        for hole, mover in zip(holes, movers, strict=True):  # the last ones close the holes
            self._move(mover, hole)
        del self._owners[keep:], self._positions[keep:]
        self._groups = None
        if keep == 0:
            self._cache.clear()

    def _move(self, source: int, target: int) -> None:
        self._cache.move(source, target)
        for store in (self._noise, self._codes, self._inputs):
            store[target] = store[source]
        self._positions[target] = self._positions[source]
        self._owners[target] = owner = self._owners[source]
        row = self._rows[owner]
        if row.slot == source:
            row.slot = target
        else:
            row.shadow = target

    def _grouped(self) -> list[_Group]:
        members: dict[tuple[ChoiceConfig, bool], list[_Row]] = {}
        for row in self._rows.values():
            members.setdefault((row.choice, row.shadow is not None), []).append(row)
        return [
            _Group(
                choice,
                torch.tensor([row.slot for row in rows], device=self._chooses_on),
                torch.tensor([row.shadow for row in rows if row.shadow is not None])
                if guided
                else None,
            )
            for (choice, guided), rows in members.items()
        ]
