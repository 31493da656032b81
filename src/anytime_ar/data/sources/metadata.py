"""Read `metadata.csv` beside the files of a folder: their conditions, a column each."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from anytime_ar.data.conditions import ConditionColumn
from anytime_ar.data.rows import Row, StoredConditions
from anytime_ar.errors import DataError

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
"""Names of files with the conditions of the samples beside and below them."""
_FILE_KEYS = ("file_name", "file")
"""Columns that name a sample, relative to the folder of the metadata."""


def add_metadata(
    rows: Mapping[str, list[Row]], root: Path, columns: Mapping[str, ConditionColumn]
) -> StoredConditions:
    """Give the files of a folder their conditions from the metadata beside or above them.

    Args:
        rows: rows by split, whose contents are paths; they are replaced.
        root: the folder.
        columns: the columns by the name of their condition.

    Raises:
        DataError: there is no metadata, or it lacks a column or a file.
    """
    files = [path for name in METADATA_NAMES for path in sorted(root.rglob(name))]
    if not files:
        raise DataError(
            f"{root}: data.conditions are read from metadata.csv with the columns file_name, "
            f"{', '.join(_names(columns))}, or metadata.jsonl; add one, or drop data.conditions"
        )
    values: dict[Path, tuple[tuple[Any, ...], str]] = {}
    for file in files:
        for line, entry in _entries(file):
            origin = f"{file} line {line}"
            key = next((key for key in _FILE_KEYS if key in entry), None)
            missing = [name for name in _names(columns) if name not in entry]
            if key is None or missing:
                wanted = _FILE_KEYS[0] if key is None else missing[0]
                raise DataError(
                    f"{origin}: has no {wanted}, only {', '.join(map(str, entry))}; add it, or set "
                    "the column of data.conditions"
                )
            found = tuple(_value(entry[name]) for name in _names(columns))
            values[file.parent / str(entry[key])] = (found, origin)
    for listed in rows.values():
        for i, row in enumerate(listed):
            assert isinstance(row.content, Path)
            if row.content not in values:
                raise DataError(f"{row.origin}: is not in {files[0]}; add it, or move it elsewhere")
            listed[i] = replace(row, conditions=values[row.content][0])
    return StoredConditions(lambda i: ((found[i], origin) for found, origin in values.values()), {})


def _names(columns: Mapping[str, ConditionColumn]) -> list[str]:
    """Return the columns to read, in the order of their conditions."""
    return [column.column or name for name, column in columns.items()]


def _value(stored: Any) -> Any:
    """Return an empty cell as None, and a list in the text of a cell as a list."""
    if stored == "":
        return None
    if isinstance(stored, str) and stored.startswith("[") and stored.endswith("]"):
        try:
            return json.loads(stored)
        except ValueError:
            return stored
    return stored


def _entries(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the entries of a metadata file with the numbers of their lines.

    Raises:
        DataError: the file does not read as CSV or lines of JSON.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            if file.suffix == ".csv":
                reader = csv.DictReader(opened)
                yield from ((reader.line_num, entry) for entry in reader)
                return
            for line, text in enumerate(opened, start=1):
                if text.strip():
                    entry = json.loads(text)
                    if not isinstance(entry, dict):
                        raise DataError(f"{file} line {line}: is no object; write one a line")
                    yield line, entry
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"{file}: does not read ({error}); write it again in UTF-8") from error
