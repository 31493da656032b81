"""From stored labels to classes 0..n-1."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytime_ar.errors import DataError

MAX_CLASSES = 1 << 16
"""Beyond them, a column holds ids or texts."""

LabelValue = int | str


@dataclass(frozen=True)
class LabelEncoder:
    """The classes of a set: their names, and which stored value means which."""

    names: tuple[str, ...]
    class_of_value: dict[LabelValue, int]

    @classmethod
    def from_names(cls, names: Iterable[str]) -> LabelEncoder:
        """The classes of a column that declares them; it may store numbers or names."""
        names = tuple(names)
        numbers: dict[LabelValue, int] = {place: place for place in range(len(names))}
        return cls(names, numbers | {name: place for place, name in enumerate(names)})

    @classmethod
    def from_values(cls, values: Iterable[LabelValue]) -> LabelEncoder:
        """A class for each different value, numbers before texts, in order."""
        # 1.0 and True are 1 by now, so that a value has one spelling.
        ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
        return cls(tuple(map(str, ordered)), {value: i for i, value in enumerate(ordered)})

    def encode(self, stored: Any, origin: str) -> int | None:
        """The class that a stored label means; None for no label.

        Raises:
            DataError: it is none of them.
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
    """One spelling for each label: an integer, or a text with its accents composed. None where
    there is no label: null, NaN, -1 and the empty text.

    Raises:
        DataError: neither a whole number nor a text.
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
    """The different labels among stored ones, each with its origin.

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
