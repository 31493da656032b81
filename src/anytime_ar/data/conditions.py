"""Read the conditions of samples from the columns of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from anytime_ar.conditions import (
    ClassCondition,
    CodesCondition,
    Condition,
    VectorCondition,
    text_condition,
)
from anytime_ar.config import Config, short_repr, to_python
from anytime_ar.data.labels import LabelEncoder, distinct_values
from anytime_ar.data.rows import Row, SplitRows, StoredConditions
from anytime_ar.errors import DataError, InputError


class ConditionColumn(Config):
    """A column that holds a condition of the samples, beside their label."""

    kind: Literal["class", "text", "vector", "codes"] = "class"
    """`class`: one of several values. `text`: words. `vector`: numbers, always as many. `codes`: a
    few whole numbers from 0."""
    column: str | None = None
    """Name of the column; that of the condition when not given."""
    max_tokens: int | None = Field(default=None, ge=1, le=2**12)
    """Largest number of words or codes; the most that occur when not given."""
    vocabulary: int | None = Field(default=None, ge=1, le=2**24)
    """Number of values of a code; one more than the largest that occurs when not given."""


@dataclass(frozen=True)
class ConditionReader:
    """The conditions of a data set, and how their stored values are read."""

    known: Mapping[str, Condition]
    """Conditions by name."""
    _classes: Mapping[str, LabelEncoder]
    """Encoders of the conditions that are classes, by name."""

    def read(self, row: Row) -> tuple[Tensor, ...]:
        """Return the conditions of a row as rows of tensors.

        Raises:
            DataError: a value does not fit its condition.
        """
        encoded = []
        for (name, condition), stored in zip(self.known.items(), row.conditions, strict=True):
            value = stored
            if name in self._classes:
                value = self._classes[name].encode(stored, row.origin)
            try:
                encoded.append(condition.encode(value, name))
            except InputError as error:
                raise DataError(f"{row.origin}: {error}") from error
        return tuple(encoded)


class ConditionedRows:
    """Rows whose stored conditions are read; see `SplitRows`.

    Args:
        rows: rows with stored values.
        reader: reads them.
    """

    def __init__(self, rows: SplitRows, reader: ConditionReader) -> None:
        """Store the rows; nothing is read yet."""
        self._rows, self._reader = rows, reader

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
            DataError: a value does not fit its condition.
        """
        for row in self._rows.read(start):
            yield replace(row, conditions=self._reader.read(row))


def read_conditions(
    columns: Mapping[str, ConditionColumn], stored: StoredConditions
) -> ConditionReader:
    """Find the classes, words and sizes of conditions from the values of all splits.

    Args:
        columns: the columns by the name of their condition.
        stored: the stored values.

    Raises:
        DataError: a column holds other values than its kind, or too many different ones.
    """
    known: dict[str, Condition] = {}
    classes: dict[str, LabelEncoder] = {}
    for number, (name, column) in enumerate(columns.items()):
        if column.kind == "class":
            if name in stored.class_names:
                classes[name] = LabelEncoder.from_names(stored.class_names[name])
            else:
                found = distinct_values(stored.values(number), name)
                classes[name] = LabelEncoder.from_values(found)
            if not classes[name].names:
                raise DataError(f"data.conditions.{name} has no value in any split; drop it")
            known[name] = ClassCondition(names=classes[name].names)
            continue
        values = ((to_python(value), origin) for value, origin in stored.values(number))
        given = ((value, origin) for value, origin in values if value is not None)
        try:
            known[name] = _CONDITIONS[column.kind](column, name, given)
        except InputError as error:
            raise DataError(f"data.conditions.{name}: {error}") from error
    return ConditionReader(known, classes)


def _text(column: ConditionColumn, name: str, values: Iterable[tuple[Any, str]]) -> Condition:
    """Return the condition of a column of texts."""

    def texts() -> Iterator[str]:
        for value, origin in values:
            if not isinstance(value, str):
                raise InputError(f"{origin} is {short_repr(value)}, no text; set another kind")
            yield value

    return text_condition(texts(), column.max_tokens, name)


def _vector(_column: ConditionColumn, name: str, values: Iterable[tuple[Any, str]]) -> Condition:
    """Return the condition of a column of vectors, which are as wide as the first."""
    value, origin = next(iter(values), (None, ""))
    numbers = [value] if isinstance(value, int | float) else value
    if not isinstance(numbers, list | tuple) or not numbers:
        what = f"{origin} is {short_repr(value)}" if origin else f"{name} has no value"
        raise InputError(f"{what}; a vector is a list of numbers, always as many")
    return VectorCondition(width=len(numbers))


def _codes(column: ConditionColumn, _name: str, values: Iterable[tuple[Any, str]]) -> Condition:
    """Return the condition of a column of codes."""
    longest, highest = 1, 0
    for value, origin in values:
        if not isinstance(value, list | tuple) or not all(type(code) is int for code in value):
            raise InputError(f"{origin} is {short_repr(value)}; codes are lists of whole numbers")
        longest = max(longest, len(value))
        highest = max([highest, *value])
    return CodesCondition(
        vocabulary=column.vocabulary or highest + 1, max_tokens=column.max_tokens or longest
    )


_CONDITIONS = {"text": _text, "vector": _vector, "codes": _codes}
