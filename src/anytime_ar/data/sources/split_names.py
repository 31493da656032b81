"""The names that make a folder, a file or a table of the Hub one split of a data set.

Only whole names count, and those of shards: `trainval` and `validated` are no splits.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test",),
}
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
_SHARD = re.compile(
    r"(?P<name>[a-z]+)(?:[-_.](?P<number>\d+)(?:[-_.]of[-_.](?P<count>\d+))?"
    r"(?:-[0-9a-f]{16})?)?"  # the Hub once added a hash
)


class ShardName(NamedTuple):
    """What the name of a file says about its place in a data set."""

    split: str
    spelling: str
    """Of the split, as this file spells it."""
    number: int | None
    num_shards: int | None
    """Of shards."""


def canonical_split(name: str) -> str | None:
    """Return the split that a folder or table is, in either case; None where it is none."""
    return _SPLIT_OF.get(name.lower())


def parse_shard_name(stem: str) -> ShardName | None:
    """Read the name of a file, without its suffix; None where it is no part of a split."""
    found = _SHARD.fullmatch(stem.lower())
    if found is None or (split := canonical_split(found["name"])) is None:
        return None
    number, count = (None if text is None else int(text) for text in found.group("number", "count"))
    return ShardName(split, found["name"], number, count)
