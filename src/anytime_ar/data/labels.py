"""Map stored labels to classes 0..n-1."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytime_ar.errors import DataError

MAX_CLASSES = 1 << 16
"""Largest number of classes; a column with more values holds ids or texts."""

LabelValue = int | str


@dataclass(frozen=True)
class LabelEncoder:
    """An encoder from stored label values to classes."""

    names: tuple[str, ...]
    """Name of each class, in order."""
    class_of_value: dict[LabelValue, int]
    """Class in 0..n-1 of each stored value."""

    @classmethod
    def from_names(cls, names: Iterable[str]) -> LabelEncoder:
        """Make an encoder for a column that declares its classes, and stores numbers or names.

        The names are different; composed accents (NFC) make two spellings of one name equal.
        """
        names = tuple(unicodedata.normalize("NFC", name) for name in names)
        numbers: dict[LabelValue, int] = {i: i for i in range(len(names))}
        return cls(names, numbers | {name: i for i, name in enumerate(names)})

    @classmethod
    def from_values(cls, values: Iterable[LabelValue]) -> LabelEncoder:
        """Make an encoder with a class for each distinct value, sorted, numbers before texts."""
        # `normalize_label` has made 1.0 and True equal to 1, so that each value has one spelling.
        ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
        return cls(tuple(map(str, ordered)), {value: i for i, value in enumerate(ordered)})

    def encode(self, stored: Any, origin: str) -> int | None:
        """Return the class of a stored label; None for no label.

        Args:
            stored: the label as stored.
            origin: name of the sample, for messages.

        Raises:
            DataError: the label is none of the classes.
        """
        value = normalize_label(stored, origin)
        if value is None:
            return None
        if value not in self.class_of_value:
            raise DataError(
                f"{origin}: label {stored} is not one of the classes 0 to {len(self.names) - 1}; "
                "set data.label_key to another column, or repair the file"
            )
        return self.class_of_value[value]


def normalize_label(stored: Any, origin: str) -> LabelValue | None:
    """Return an integer, a text with composed accents (NFC), or None for no label.

    Null, NaN, -1 and the empty text mean no label.

    Args:
        stored: the label as stored.
        origin: name of the sample, for messages.

    Raises:
        DataError: the label is neither an integer nor a text.
    """
    if isinstance(stored, np.generic):
        stored = stored.item()
    if stored is None:
        return None
    if isinstance(stored, str):
        return unicodedata.normalize("NFC", stored) or None
    if isinstance(stored, float):
        if math.isnan(stored):
            return None
        if not stored.is_integer():
            raise DataError(
                f"{origin}: label {stored} is no whole number; set data.label_key to another "
                "column, or data.labels to false"
            )
    if isinstance(stored, bool | int | float):
        return None if stored == -1 else int(stored)
    raise DataError(
        f"{origin}: label {stored!r} is neither a whole number nor a text; set data.label_key to "
        "another column, or data.labels to false"
    )


def distinct_values(values: Iterable[tuple[Any, str]], key: str) -> set[LabelValue]:
    """Return the distinct labels.

    Args:
        values: stored labels, each with its origin.
        key: name of their column, for the message.

    Raises:
        DataError: there are more than `MAX_CLASSES`.
    """
    found: set[LabelValue] = set()
    for stored, origin in values:
        value = normalize_label(stored, origin)
        if value is not None:
            found.add(value)
        if len(found) > MAX_CLASSES:
            raise DataError(
                f"{origin}: column {key!r} has more than {MAX_CLASSES} different values up to "
                "here, which are no classes; set data.label_key to another column, or data.labels "
                "to false"
            )
    return found
