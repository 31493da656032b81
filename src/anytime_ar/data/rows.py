"""Read stored samples in a fixed order, and hold out some of them.

The hold-out is a pure function of seed and position, so a stream of unknown length is split exactly
as the same set in memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from anytime_ar.errors import DataError
from anytime_ar.media.formats import MediaContent
from anytime_ar.runtime.seeding import stable_hash

_MAX_ROWS = 2**48
"""Upper bound of rows, larger than any data set."""

Modality = Literal["image", "audio", "tensor"]
"""Kind of the samples of a set: files, or arrays and what else a program holds."""


@dataclass(frozen=True, slots=True)
class Row:
    """One stored sample of a split."""

    index: int
    """Position in the stored split: `SplitRows.read(index)` starts here."""
    content: MediaContent | Tensor | npt.NDArray[Any]
    """Encoded or decoded sample, or its file."""
    label: int | None
    """Class in 0..n-1; None for no label."""
    origin: str
    """Name in messages: a file, or a file or set with a row number."""
    conditions: tuple[Any, ...] = ()
    """Values of the conditions, in the order of `data.conditions`; as stored, or as rows of tensors
    once they are read."""


class SplitRows(Protocol):
    """One stored split, readable from any position."""

    @property
    def size(self) -> int | None:
        """Return the number of rows; None if it is unknown before they are read."""

    def read(self, start: int = 0) -> Iterator[Row]:
        """Yield the rows with `index >= start` in stored order."""

    def index_of(self, position: int) -> int:
        """Return the `index` of the row at a position in this split."""


StoredArray = npt.NDArray[np.uint8] | npt.NDArray[np.int16] | npt.NDArray[np.float32]
"""A stored sample: an image uint8 [C, H, W], a clip int16 [1, T], or float32 of either shape."""


@dataclass(frozen=True)
class StoredConditions:
    """The stored values of the conditions of a data set, in all of its splits."""

    values: Callable[[int], Iterator[tuple[Any, str]]]
    """Returns the values of the i-th condition, each with its origin."""
    class_names: Mapping[str, tuple[str, ...]]
    """Names of the classes of columns that declare them, by condition."""


@dataclass(frozen=True)
class DataSource:
    """The stored splits of a data set: `train`, and optionally `validation` and `test`."""

    splits: dict[str, SplitRows]
    label_names: tuple[str, ...] | None
    """Name of each class; None if the set has no labels."""
    modality: Modality = "image"
    conditions: StoredConditions | None = None
    """Stored values of `data.conditions`; None if the source has no such columns."""
    notes: tuple[str, ...] = ()
    """Parts of the stored set that were left out, in words."""
    channel_names: tuple[str, ...] | None = None
    """Names of the channels of series; None if they have none."""


class InMemoryRows:
    """Rows in a list: the files of a folder, or an embedded set."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Store the rows, whose indices count from 0."""
        self._rows = rows

    @property
    def size(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def read(self, start: int = 0) -> Iterator[Row]:
        """Yield the rows from an index on."""
        return iter(self._rows[start:])

    def index_of(self, position: int) -> int:
        """Return the position itself, which is the index."""
        return position


class LabelCheckedRows:
    """Rows that all have a label, or all have none, as the reference row.

    Args:
        rows: the rows to check.
        reference: one of the rows; None to leave labels out.
    """

    def __init__(self, rows: SplitRows, reference: Row | None) -> None:
        """Store the rows and their reference; rows are checked as they are read."""
        self._rows = rows
        self._reference = reference

    @property
    def size(self) -> int | None:
        """Return the number of rows; see `SplitRows`."""
        return self._rows.size

    def index_of(self, position: int) -> int:
        """Return the index of the row at a position; see `SplitRows`."""
        return self._rows.index_of(position)

    def read(self, start: int = 0) -> Iterator[Row]:
        """Yield the rows in stored order; see `SplitRows`.

        Raises:
            DataError: one row has a label and another has none.
        """
        like = self._reference
        for row in self._rows.read(start):
            if like is None:
                yield row if row.label is None else replace(row, label=None)
                continue
            if (row.label is None) != (like.label is None):
                without, beside = (row, like) if row.label is None else (like, row)
                raise mixed_labels_error(without.origin, beside.origin)
            yield row


def mixed_labels_error(without: str, beside: str) -> DataError:
    """Return the error for a split of which only some samples have labels.

    Args:
        without: name of a sample without a label.
        beside: name of a sample with one.
    """
    return DataError(
        f"{without}: has no label, and {beside} of the same split has one; label all samples of a "
        "split or none, or set data.labels to false"
    )


class HoldOut:
    """A hold-out of one random position from each run of about `1 / fraction` positions.

    Unlike a permutation, this needs no length, and it covers sets that are sorted by class evenly.

    Args:
        fraction: share of the positions to hold out.
        seed: seed of the random positions.
        name: name of the split, which gives it random positions of its own.
    """

    def __init__(self, fraction: float, seed: int, name: str) -> None:
        # A ratio of integers makes the bounds of the runs exact at any position.
        """Store the fraction as a ratio of integers."""
        self._rate = Fraction(fraction).limit_denominator(10**9)
        self._seed = seed
        self._name = name

    def _held_out_position(self, run: int) -> int:
        """Return the one position of a run that is held out."""
        first = -(-run * self._rate.denominator // self._rate.numerator)
        end = -(-(run + 1) * self._rate.denominator // self._rate.numerator)
        return first + stable_hash("hold-out", self._name, self._seed, run) % (end - first)

    def _run_of(self, position: int) -> int:
        """Return the index of the run that a position belongs to."""
        return position * self._rate.numerator // self._rate.denominator

    def __contains__(self, position: int) -> bool:
        """Return whether a position is held out."""
        return self._held_out_position(self._run_of(position)) == position

    def count_before(self, position: int) -> int:
        """Return how many positions below this one are held out."""
        run = self._run_of(position)
        return run + (self._held_out_position(run) < position)


class HeldOutRows:
    """The rows that one hold-out takes, or those that all hold-outs leave.

    `index` is still the index in the original rows. Each hold-out counts only the rows that the
    hold-outs before it have left.

    Args:
        rows: all rows.
        hold_outs: the hold-outs, in order.
        index: index of the hold-out whose rows are read; `len(hold_outs)` for the remaining rows.
    """

    def __init__(self, rows: SplitRows, hold_outs: Sequence[HoldOut], index: int) -> None:
        """Store the rows and the hold-outs; nothing is read yet."""
        self._rows = rows
        self._hold_outs = hold_outs
        self._index = index

    @property
    def size(self) -> int | None:
        """Return the number of rows; None if it is unknown before they are read."""
        size = self._rows.size
        return None if size is None else self._count_before(size)

    def index_of(self, position: int) -> int:
        """Return the original index of the row at a position."""
        return bisect_right(range(_MAX_ROWS), position, key=self._count_before) - 1

    def _count_before(self, index: int) -> int:
        """Return how many of the first `index` original rows are among these."""
        remaining = index
        for hold_out in self._hold_outs[: self._index]:
            remaining -= hold_out.count_before(remaining)
        if self._index == len(self._hold_outs):
            return remaining
        return self._hold_outs[self._index].count_before(remaining)

    def read(self, start: int = 0) -> Iterator[Row]:
        """Yield these rows from an original index on."""
        return (
            row for row in self._rows.read(start) if self._hold_out_of(row.index) == self._index
        )

    def _hold_out_of(self, position: int) -> int:
        """Return the index of the hold-out that takes a position; `len(hold_outs)` for none."""
        for part, hold_out in enumerate(self._hold_outs):
            if position in hold_out:
                return part
            position -= hold_out.count_before(position)
        return len(self._hold_outs)
