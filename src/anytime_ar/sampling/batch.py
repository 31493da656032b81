"""Rows that are drawn together: one code for each at every step.

Rows are strangers to one another. Each has its own numbers, label, settings and position, joins
when there is room, leaves when it is done, and gets the codes that it would get alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anytime_ar.ambient import defaults
from anytime_ar.codes import check_codes
from anytime_ar.errors import InputError
from anytime_ar.prior import IS_SHADOW, NO_SHADOW, ChoiceConfig, Decoder, RowChoice


class DecodeBatch:
    """Draws one code at a time for up to `capacity` rows; a guided row takes the room of two.

    Args:
        decoder: of the prior to draw from.
        capacity: how many rows there is room for.
    """

    @defaults()
    def __init__(self, decoder: Decoder[Any], capacity: int) -> None:
        self.decoder, self.capacity = decoder, capacity
        self._rows = decoder.allocate(capacity)
        weakref.finalize(self, decoder.release, self._rows)
        self._slots: dict[int, int] = {}  # by id; a guided row has a second one, its shadow
        self._owners: list[int] = []  # ids by slot
        self._varying: dict[int, ChoiceConfig] = {}  # by id, where it depends on the position
        self._next_id = 0

    def __repr__(self) -> str:
        taken = len(self._owners)
        return (
            f"DecodeBatch({taken} of {self.capacity} rows, code_length={self.decoder.code_length})"
        )

    @property
    def room(self) -> int:
        """How many more rows may join; guided ones count twice."""
        return self.capacity - len(self._owners)

    @defaults()
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
            InputError: there is no room, or labels or codes are not of this prior.
        """
        self._check(labels, codes)
        n = len(noise)
        guided = labels is not None and choice.guided
        if n * (1 + guided) > self.room:
            raise InputError(
                f"{n} {'guided ' if guided else ''}rows do not fit: {len(self._owners)} of "
                f"{self.capacity} places are taken; let rows leave first, or make a larger batch"
            )
        first = len(self._owners)
        ids = list(range(self._next_id, self._next_id + n))
        self._next_id += n
        for i, row in enumerate(ids):
            self._slots[row] = first + i
            shadow = first + n + i if guided else NO_SHADOW
            self._rows.choices[first + i].shadow = shadow
        self._append(ids, noise, labels, codes)
        if guided:
            for shadow in range(first + n, first + 2 * n):
                self._rows.choices[shadow].shadow = IS_SHADOW
            self._append(ids, noise, None, codes)
        for row in ids:
            self._set_choice(row, choice)
        if choice.varies:
            self._varying |= dict.fromkeys(ids, choice)
        return ids

    def _check(self, labels: Tensor | None, codes: Tensor | None) -> None:
        """Refuse what would be looked up beyond the end of a table."""
        most = self.decoder.no_label
        if labels is not None and not ((labels >= 0) & (labels <= most)).all():
            raise InputError(f"labels {labels.tolist()} are not all in 0..{most}; pass such ones")
        if codes is not None:
            vocabulary = self.decoder.vocabulary
            check_codes(codes, length=self.decoder.code_length, vocabulary=vocabulary)

    def _set_choice(self, row: int, choice: ChoiceConfig) -> None:
        """For the next code of a row."""
        slot = self._slots[row]
        now = choice.at(self._rows.positions[slot], self.decoder.code_length)
        self._rows.choices[slot] = RowChoice.of(now, self._rows.choices[slot].shadow)

    def _append(
        self, ids: Sequence[int], noise: Tensor, labels: Tensor | None, codes: Tensor | None
    ) -> None:
        first, n = len(self._owners), len(ids)
        slots = slice(first, first + n)
        drawn = 0 if codes is None else codes.shape[1]
        self._owners += ids
        self._rows.noise[slots] = noise
        self._rows.labels[slots] = self.decoder.no_label if labels is None else labels
        self._rows.positions[slots] = [drawn] * n
        if codes is not None:
            self._rows.codes[slots, :drawn] = codes
            self.decoder.replay(self._rows, first, n)

    def step(self) -> None:
        """Draw the next code of every row; none of them may be complete."""
        assert self._owners, "an empty batch has nothing to draw"
        for row, choice in self._varying.items():
            self._set_choice(row, choice)
        self.decoder.step(self._rows, len(self._owners))

    @defaults()
    def codes(self, ids: Sequence[int]) -> Tensor:
        """Codes so far of rows at the same position: int64 [n, k]."""
        slots = [self._slots[row] for row in ids]
        drawn = self._rows.positions[slots[0]]
        if slots == list(range(slots[0], slots[0] + len(slots))):
            return self._rows.codes[slots[0] : slots[0] + len(slots), :drawn].clone()
        return self._rows.codes[slots, :drawn]

    def drawn(self, row: int) -> int:
        """How many codes a row has."""
        return self._rows.positions[self._slots[row]]

    def leave(self, ids: Sequence[int]) -> None:
        """Let rows go; they cost nothing from now on."""
        gone = set(ids)
        keep = sum(owner not in gone for owner in self._owners)
        holes = [slot for slot in range(keep) if self._owners[slot] in gone]
        movers = [s for s in range(keep, len(self._owners)) if self._owners[s] not in gone]
        for hole, mover in zip(holes, movers, strict=True):  # the last ones close the holes
            self._move(mover, hole)
        for row in ids:
            del self._slots[row]
            self._varying.pop(row, None)
        del self._owners[keep:]
        if keep == 0:
            self._rows.cache.clear()

    def _move(self, source: int, target: int) -> None:
        self._rows.move(source, target)
        self._owners[target] = owner = self._owners[source]
        if self._slots[owner] == source:
            self._slots[owner] = target
        else:
            self._rows.choices[self._slots[owner]].shadow = target
