"""Read data sets as stored, and recognise which folders, files and Hub tables are their splits.

Only whole names are splits, and those of shards: `trainval` and `validated` are none.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test",),
}
"""Accepted spellings of each split's name, in lower case."""
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
_SHARD = re.compile(
    r"(?P<name>[a-z]+)(?:[-_.](?P<number>\d+)(?:[-_.]of[-_.](?P<count>\d+))?"
    r"(?:-[0-9a-f]{16})?)?"  # older Hub files end in a hash
)


class ShardName(NamedTuple):
    """The parts of a shard's file name."""

    split: str
    """Name of the split: train, validation or test."""
    spelling: str
    """Name of the split as the file spells it."""
    number: int | None
    """Number of the shard; None for an unsharded split."""
    num_shards: int | None
    """Total number of shards; None if the name does not give it."""


def canonical_split(name: str) -> str | None:
    """Return the split that a folder's or table's name means, in any case; None for no split."""
    return _SPLIT_OF.get(name.lower())


def parse_shard_name(stem: str) -> ShardName | None:
    """Parse a file name without its suffix; return None if it is no part of a split."""
    found = _SHARD.fullmatch(stem.lower())
    if found is None or (split := canonical_split(found["name"])) is None:
        return None
    number, count = (None if text is None else int(text) for text in found.group("number", "count"))
    return ShardName(split, found["name"], number, count)
