"""Rows of a table, whether it is on disk or streamed from the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from anytime_ar.data.columns import Column, SelectedColumns, select_columns, unused_text_column
from anytime_ar.data.config import DataConfig
from anytime_ar.data.labels import LabelEncoder, distinct_values
from anytime_ar.data.rows import DataSource, Row, SplitRows
from anytime_ar.data.suffixes import MediaContent
from anytime_ar.errors import DataError

READ_BATCH_ROWS = 256  # rows; one at a time, the libraries' overhead is three times the decoding
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Table(Protocol):
    """One stored split in columns."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """What there is."""

    @property
    def size(self) -> int | None:
        """How many rows there are, if known without reading them."""

    def origin(self, index: int) -> str:
        """What messages call a row."""

    def locate_missing_column(self, key: str) -> str | None:
        """What messages call the part of it that has no such column; None where all have it."""

    def read(self, keys: Sequence[str], start: int = 0) -> Iterator[dict[str, list[Any]]]:
        """Some columns from row `start` on, some rows at a time; nulls for a column that is not
        there.

        Raises:
            DataError: it cannot be read.
        """
        ...


class TableRows:
    """Rows of one table, samples left encoded."""

    def __init__(
        self, table: Table, columns: SelectedColumns, label_encoder: LabelEncoder | None
    ) -> None:
        self._table = table
        self._columns = columns
        self._label_encoder = label_encoder

    @property
    def size(self) -> int | None:
        return self._table.size

    def read(self, start: int = 0) -> Iterator[Row]:
        if self.size is not None and start >= self.size:
            return
        label_key = None if self._label_encoder is None else self._columns.label
        keys = [key for key in (self._columns.sample, label_key) if key is not None]
        index = start
        for batch in self._table.read(keys, start):
            samples = batch[self._columns.sample]
            labels = [None] * len(samples) if label_key is None else batch[label_key]
            for sample, label in zip(samples, labels, strict=True):
                origin = self._table.origin(index)
                place = (
                    None
                    if self._label_encoder is None
                    else self._label_encoder.encode(label, origin)
                )
                yield Row(index, _cell_content(sample, origin), place, origin)
                index += 1

    def index_of(self, position: int) -> int:
        return position


def table_source(
    config: DataConfig, tables: Mapping[str, Table], notes: Sequence[str]
) -> DataSource:
    """Choose the columns of a data set, by those of its training split, and name its classes.

    Raises:
        DataError: no column fits, or labels are no classes.
    """
    columns = select_columns(tables["train"].columns, config, config.name)
    for table in tables.values():
        if (part := table.locate_missing_column(columns.sample)) is not None:
            raise DataError(
                f"{part}: has no column {columns.sample!r} as the training split has; use the same "
                "columns everywhere"
            )
    notes = list(notes)
    if config.labels and (key := unused_text_column(tables["train"].columns, columns)) is not None:
        notes.append(
            f"column {key!r} holds texts and is not read; set data.label_key to it for classes"
        )
    classes = None
    if columns.class_names is not None:
        classes = LabelEncoder.from_names(columns.class_names)
    elif columns.label is not None:
        values = distinct_values(_stored_labels(tables.values(), columns.label), columns.label)
        classes = LabelEncoder.from_values(values) if values else None
    splits: dict[str, SplitRows] = {
        split: TableRows(table, columns, classes) for split, table in tables.items()
    }
    names = None if classes is None else classes.names
    return DataSource(splits, names, columns.modality, tuple(notes))


def _stored_labels(tables: Iterable[Table], key: str) -> Iterator[tuple[Any, str]]:
    """All labels, for which their column is read once."""
    for table in tables:
        index = 0
        for batch in table.read([key]):
            for label in batch[key]:
                yield label, table.origin(index)
                index += 1


def first_line(error: Exception) -> str:
    """What an error of another library says, short enough for ours."""
    return str(error).splitlines()[0] if str(error).strip() else type(error).__name__


def _cell_content(value: Any, origin: str) -> MediaContent:
    """The bytes of a sample's cell, fetched where the cell only has a path; none of nothing."""
    content, path = value, None
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
    if isinstance(content, bytes):
        return content
    if content is None and path is None:
        return b""
    if not isinstance(path, str):
        raise DataError(
            f"{origin}: holds no bytes of an image or sound; repair the file, or set "
            "data.image_key or data.sound.key"
        )
    if not _URL.match(path):
        return Path(path)
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:  # a file of a streamed Hub set
            remote: bytes = file.read()
    except Exception as error:  # whatever its protocols raise
        raise DataError(
            f"{origin}: {path} cannot be fetched ({first_line(error)}); check the network"
        ) from error
    return remote
