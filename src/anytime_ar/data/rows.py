"""Stored samples in a fixed order, and the choice of those that are held out.

The held-out choice is a pure function of seed and position, so a stream of unknown length is split
exactly as the same set in memory is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from anytime_ar.errors import DataError
from anytime_ar.media.formats import MediaContent
from anytime_ar.runtime.seeding import stable_hash

_MAX_ROWS = 2**48
"""More rows than any set has."""

Modality = Literal["image", "audio"]
"""What the samples of a set are."""


@dataclass(frozen=True, slots=True)
class Row:
    """One stored sample."""

    index: int
    """Position in the stored split: `DecodeState.read(index)` starts here."""
    content: MediaContent
    label: int | None
    origin: str
    """What messages call it: a file, or a file or set with a row number."""


class SplitRows(Protocol):
    """One stored split, readable from any position."""

    @property
    def size(self) -> int | None:
        """How many rows there are, if known without reading them."""

    def read(self, start: int = 0) -> Iterator[Row]:
        """Rows in stored order, from those with `index >= start` on."""

    def index_of(self, position: int) -> int:
        """The `index` of the row that comes after so many others."""


StoredArray = npt.NDArray[np.uint8] | npt.NDArray[np.int16]
"""A picture uint8 [C, H, W], or a sound int16 [1, T]."""


@dataclass(frozen=True)
class DataSource:
    """All that a data set stores. `splits` has `train`, perhaps `validation` and `test`."""

    splits: dict[str, SplitRows]
    label_names: tuple[str, ...] | None
    modality: Modality = "image"
    notes: tuple[str, ...] = ()
    """What was left out, in words."""


class InMemoryRows:
    """Rows that are known from the start: files of a folder, an embedded set."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    @property
    def size(self) -> int:
        return len(self._rows)

    def read(self, start: int = 0) -> Iterator[Row]:
        return iter(self._rows[start:])

    def index_of(self, position: int) -> int:
        return position


class LabelCheckedRows:
    """Rows that all have a label, or none: as `reference`, which is one of them.

    Args:
        reference: None to leave labels out.
    """

    def __init__(self, rows: SplitRows, reference: Row | None) -> None:
        self._rows = rows
        self._reference = reference

    @property
    def size(self) -> int | None:
        return self._rows.size

    def index_of(self, position: int) -> int:
        return self._rows.index_of(position)

    def read(self, start: int = 0) -> Iterator[Row]:
        like = self._reference
        for row in self._rows.read(start):
            if like is None:
                yield row if row.label is None else replace(row, label=None)
                continue
            if (row.label is None) != (like.label is None):
                without, beside = (row, like) if row.label is None else (like, row)
                raise DataError(
                    f"{without.origin}: has no label, and {beside.origin} of the same split has "
                    "one; label all samples of a split or none, or set data.labels to false"
                )
            yield row


class HoldOut:
    """One position drawn at random from each run of about `1 / fraction` positions.

    Unlike a permutation this needs no length, and it covers sets that are sorted by class evenly.
    """

    def __init__(self, fraction: float, seed: int, name: str) -> None:
        # As a ratio of integers, so that the bounds of the runs are exact at any position.
        self._rate = Fraction(fraction).limit_denominator(10**9)
        self._seed = seed
        self._name = name

    def _held_out_position(self, run: int) -> int:
        first = -(-run * self._rate.denominator // self._rate.numerator)
        end = -(-(run + 1) * self._rate.denominator // self._rate.numerator)
        return first + stable_hash("hold-out", self._name, self._seed, run) % (end - first)

    def _run_of(self, position: int) -> int:
        return position * self._rate.numerator // self._rate.denominator

    def __contains__(self, position: int) -> bool:
        return self._held_out_position(self._run_of(position)) == position

    def count_before(self, position: int) -> int:
        """How many of the positions below this one are held out."""
        run = self._run_of(position)
        return run + (self._held_out_position(run) < position)


class HeldOutRows:
    """The rows of `rows` that a hold-out takes, or leaves. `index` stays that of `rows`."""

    def __init__(self, rows: SplitRows, hold_outs: Sequence[HoldOut], index: int) -> None:
        """`index` is the number of the hold-out whose rows are read; `len(held_out)` for the rest.

        Each hold-out counts only the rows that those before it have left.
        """
        self._rows = rows
        self._hold_outs = hold_outs
        self._index = index

    @property
    def size(self) -> int | None:
        size = self._rows.size
        return None if size is None else self._count_before(size)

    def index_of(self, position: int) -> int:
        return bisect_right(range(_MAX_ROWS), position, key=self._count_before) - 1

    def _count_before(self, index: int) -> int:
        """How many of the first rows of all are among these."""
        remaining = index
        for hold_out in self._hold_outs[: self._index]:
            remaining -= hold_out.count_before(remaining)
        if self._index == len(self._hold_outs):
            return remaining
        return self._hold_outs[self._index].count_before(remaining)

    def read(self, start: int = 0) -> Iterator[Row]:
        return (
            row for row in self._rows.read(start) if self._hold_out_of(row.index) == self._index
        )

    def _hold_out_of(self, position: int) -> int:
        for part, hold_out in enumerate(self._hold_outs):
            if position in hold_out:
                return part
            position -= hold_out.count_before(position)
        return len(self._hold_outs)
