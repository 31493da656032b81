"""Read the rows of a table, from disk or streamed from the Hub."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from anytime_ar.data.config import DataConfig
from anytime_ar.data.labels import LabelEncoder, distinct_values, normalize_label
from anytime_ar.data.rows import (
    DataSource,
    Modality,
    Row,
    SplitRows,
    StoredConditions,
    mixed_labels_error,
)
from anytime_ar.errors import DataError
from anytime_ar.media.formats import MediaContent

READ_BATCH_ROWS = 256
"""Rows that are read at once; with one at a time, overhead is three times the decoding."""
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Table(Protocol):
    """One stored split as a table of columns."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """Return the kind of each column, by name."""

    @property
    def size(self) -> int | None:
        """Return the number of rows; None if it is unknown before they are read."""

    def origin(self, index: int) -> str:
        """Return the name of a row in messages."""

    def parts(self) -> Iterator[tuple[str, Mapping[str, Column]]]:
        """Yield the name and the columns of each stored part that has rows."""

    def read(self, keys: Sequence[str], start: int = 0) -> Iterator[dict[str, list[Any]]]:
        """Yield batches of some columns from a row on; a missing column is all None.

        Args:
            keys: names of the columns.
            start: number of the first row.

        Raises:
            DataError: the table cannot be read.
        """
        ...


class TableRows:
    """The rows of one table, with encoded samples.

    Args:
        table: the table of a split.
        columns: the columns to read.
        label_encoder: the classes; None to leave labels out.
        condition_keys: columns of the conditions, in their order.
    """

    def __init__(
        self,
        table: Table,
        columns: SelectedColumns,
        label_encoder: LabelEncoder | None,
        condition_keys: Sequence[str] = (),
    ) -> None:
        """Store the table; nothing is read yet."""
        self._table = table
        self._condition_keys = condition_keys
        self._columns = columns
        self._label_encoder = label_encoder

    @property
    def size(self) -> int | None:
        """Return the number of rows; None if it is unknown before they are read."""
        return self._table.size

    def read(self, start: int = 0) -> Iterator[Row]:
        """Yield the rows from an index on; see `SplitRows`."""
        if self.size is not None and start >= self.size:
            return
        label_key = None if self._label_encoder is None else self._columns.label
        channels = self._columns.channels
        samples_in = channels or (self._columns.sample,)
        keys = [key for key in (*samples_in, label_key, *self._condition_keys) if key]
        keys = list(dict.fromkeys(keys))
        index = start
        for batch in self._table.read(keys, start):
            samples = batch[self._columns.sample]
            if channels:
                samples = [*zip(*(batch[key] for key in channels), strict=True)]
            labels = [None] * len(samples) if label_key is None else batch[label_key]
            conditions = [()] * len(samples)
            if self._condition_keys:
                conditions = [*zip(*(batch[key] for key in self._condition_keys), strict=True)]
            for sample, label, given in zip(samples, labels, conditions, strict=True):
                origin = self._table.origin(index)
                label_class = (
                    None
                    if self._label_encoder is None
                    else self._label_encoder.encode(label, origin)
                )
                content, name = (
                    (_series(sample, origin), origin) if channels else _cell_content(sample, origin)
                )
                yield Row(index, content, label_class, name, given)
                index += 1

    def index_of(self, position: int) -> int:
        """Return the position itself, which is the index."""
        return position


def table_source(
    config: DataConfig, tables: Mapping[str, Table], notes: Sequence[str]
) -> DataSource:
    """Select the columns of a data set by its training split, and find its classes.

    Args:
        config: the data set, and the columns to read.
        tables: the tables by split.
        notes: notes on parts that are left out.

    Raises:
        DataError: no column fits, or the labels are no classes.
    """
    keys = [column.column or name for name, column in config.conditions.items()]
    stored = _stored_conditions(config, tables, keys)
    columns = select_columns(tables["train"].columns, config, config.name)
    _check_parts([tables["train"], *tables.values()], columns)
    notes = list(notes)
    if config.labels and (note := label_note(tables["train"].columns, columns)) is not None:
        notes.append(note)
    if columns.label is not None:
        _check_first_label(tables["train"], columns.label)
    classes = None
    if columns.class_names is not None:
        _check_unique(columns, config.name)
        classes = LabelEncoder.from_names(columns.class_names)
    elif columns.label is not None:
        values = distinct_values(_stored_labels(tables.values(), columns.label), columns.label)
        classes = LabelEncoder.from_values(values) if values else None
    splits: dict[str, SplitRows] = {
        split: TableRows(table, columns, classes, keys) for split, table in tables.items()
    }
    names = None if classes is None else classes.names
    names_of_channels = columns.channels if len(columns.channels) > 1 else None
    return DataSource(
        splits,
        names,
        columns.modality,
        notes=tuple(notes),
        channel_names=names_of_channels,
        conditions=stored,
    )


def _stored_conditions(
    config: DataConfig, tables: Mapping[str, Table], keys: Sequence[str]
) -> StoredConditions | None:
    """Return the stored conditions of all splits; None if there are none.

    Raises:
        DataError: a column is missing.
    """
    if not keys:
        return None
    declared = {}
    for name, key in zip(config.conditions, keys, strict=True):
        for table in tables.values():
            for part, columns in table.parts():
                if key not in columns:
                    raise DataError(
                        f"{part}: has no column {key!r} for data.conditions.{name}, only "
                        f"{', '.join(columns)}; set its column"
                    )
        if names := tables["train"].columns[key].class_names:
            declared[name] = names
    return StoredConditions(lambda i: _stored_labels(tables.values(), keys[i]), declared)


def _stored_labels(tables: Iterable[Table], key: str) -> Iterator[tuple[Any, str]]:
    """Yield all stored labels with their origins; this reads their column once."""
    for table in tables:
        index = 0
        for batch in table.read([key]):
            for label in batch[key]:
                yield label, table.origin(index)
                index += 1


def _check_parts(tables: Iterable[Table], selected: SelectedColumns) -> None:
    """Check that all parts have the sample column, and store labels alike.

    Raises:
        DataError: a part lacks the column, stores texts where another stores integers, or declares
            other classes.
    """
    found: dict[str, tuple[str, Column]] = {}  # the first part and column of each kind
    for table in tables:
        for part, columns in table.parts():
            if selected.sample not in columns:
                raise DataError(
                    f"{part}: has no column {selected.sample!r} as the training split has; use the "
                    "same columns everywhere"
                )
            if selected.label is None or selected.label not in columns:
                continue
            column = columns[selected.label]
            first, like = found.setdefault(column.kind, (part, column))
            if any(a != b for a, b in zip(column.class_names, like.class_names, strict=False)):
                raise DataError(
                    f"{part}: column {selected.label!r} declares the classes "
                    f"{', '.join(column.class_names[:8])}, and {first} declares "
                    f"{', '.join(like.class_names[:8])}; declare the same everywhere, or set "
                    "data.labels to false"
                )
            number = found.get("numbers") or found.get("classes")
            # With declared classes, a text is the name of one and an integer its number.
            if number is not None and "texts" in found and selected.class_names is None:
                (one, numbers), (other, texts) = number, found["texts"]
                raise DataError(
                    f"{other}: column {selected.label!r} holds {texts.type_name}, and {one} holds "
                    f"{numbers.type_name}; store labels with one type everywhere, or set "
                    "data.labels to false"
                )


def _check_first_label(table: Table, key: str) -> None:
    """Check that no label follows a first row without one; this reads labels up to the first.

    Raises:
        DataError: the first row has no label, and another row has one.
    """
    unlabelled = None
    for stored, origin in _stored_labels([table], key):
        if normalize_label(stored, origin) is not None:
            if unlabelled is not None:
                raise mixed_labels_error(unlabelled, origin)
            return
        unlabelled = unlabelled or origin


def _check_unique(selected: SelectedColumns, origin: str) -> None:
    """Check that declared classes have different names.

    Raises:
        DataError: two have one name.
    """
    names = [unicodedata.normalize("NFC", name) for name in selected.class_names or ()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{origin}: column {selected.label!r} declares the class {twice[0]!r} twice; rename "
            "one in its metadata, or set data.labels to false"
        )


def first_line(error: Exception) -> str:
    """Return the first line of another library's error message, or the error's type."""
    return str(error).splitlines()[0] if str(error).strip() else type(error).__name__


def _series(channels: Sequence[Any], origin: str) -> npt.NDArray[np.float64]:
    """Return the cells of a row as a series [C, T]; one cell may hold all channels.

    Raises:
        DataError: they hold no numbers, or differ in length.
    """
    try:
        series = np.array(channels, dtype=np.float64)  # missing numbers become NaN
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{origin}: channels are no lists of numbers of one length ({first_line(error)}); set "
            "data.series_keys to columns of such lists"
        ) from error
    return series[0] if len(series) == 1 and series.ndim == 3 else series


def _cell_content(value: Any, origin: str) -> tuple[MediaContent, str]:
    """Return the encoded sample in a table cell, and its name in messages.

    The sample is bytes, a local path, or a download. The name includes a path that is followed.

    An empty cell gives empty bytes, which do not decode.

    Args:
        value: the cell: bytes, a path, or a dictionary with `bytes` and `path`.
        origin: name of the row, for messages.

    Raises:
        DataError: the cell holds neither bytes nor a path, or a URL cannot be fetched.
    """
    content, path = value, None
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
    if isinstance(content, bytes):
        return content, origin
    if content is None and path is None:
        return b"", origin
    if not isinstance(path, str):
        raise DataError(
            f"{origin}: holds no bytes of an image or sound; repair the file, or set "
            "data.image_key or data.audio.key"
        )
    if not _URL.match(path):
        return Path(path), f"{origin}: {path}"
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:  # a file of a streamed Hub set
            remote: bytes = file.read()
    except Exception as error:  # its protocols raise errors of any type
        raise DataError(
            f"{origin}: {path} cannot be fetched ({first_line(error)}); check the network"
        ) from error
    return remote, f"{origin}: {path}"


IMAGE_KEYS = ("image", "img")
AUDIO_KEYS = ("audio", "sound")
LABEL_KEYS = ("label", "labels", "fine_label")
_COLUMN_SETTINGS = {"image_key": "image", "audio.key": "audio", "label_key": "label"}
"""Content of the column that each setting names, for messages."""


class Column(NamedTuple):
    """The content of one table column."""

    kind: Literal["image", "audio", "bytes", "classes", "numbers", "texts", "lists", "other"]
    """Kind of the values; `bytes` are encoded files, alone or with a path, as plain parquet tools
    write them."""
    type_name: str
    """Name of the type in messages."""
    class_names: tuple[str, ...] = ()
    names_ignored: bool = False
    """Whether classes are declared without a list of their names, so that numbers are read."""


class SelectedColumns(NamedTuple):
    """The columns of a table that a data source reads."""

    sample: str
    modality: Modality
    label: str | None
    class_names: tuple[str, ...] | None
    """Names of the classes; None if the label is a plain number or a text."""
    channels: tuple[str, ...] = ()
    """Columns that hold the channels of a series, `sample` the first; none for other samples."""


def select_columns(table: Mapping[str, Column], config: DataConfig, origin: str) -> SelectedColumns:
    """Select columns by their type, and by usual names if several fit.

    Args:
        table: kind of each column, by name.
        config: may name the columns.
        origin: name of the data set, for messages.

    Raises:
        DataError: no column fits, several do, or the configured one is missing or unsuitable.
    """
    channels = _select_series_columns(table, config)
    kind, role, sample = _select_sample_column(table, config, channels, origin)
    label = None
    if config.labels:
        label = config.label_key or _select_label_column(table, origin)
    keys = *((role, key) for key in channels or (sample,)), ("label_key", label)
    for setting, key in keys:
        if key is not None and key not in table:
            raise DataError(
                f"{origin}: no column {key!r}; set data.{setting} to one of {', '.join(table)}"
            )
    if label is None:
        return SelectedColumns(sample, kind, None, None, channels)
    column = table[label]
    if column.kind not in ("classes", "numbers", "texts"):
        raise DataError(
            f"{origin}: column {label!r} holds {column.type_name}, not class labels, integers or "
            "strings; set data.label_key to another column"
        )
    return SelectedColumns(
        sample,
        kind,
        label,
        column.class_names if column.kind == "classes" else None,
        channels,
    )


def _select_series_columns(table: Mapping[str, Column], config: DataConfig) -> tuple[str, ...]:
    """Return the columns of the channels of series; none if the samples are images or audio.

    Lists of integers are series only if `series_keys` names them: codes are such lists too.
    """
    others = ("image", "audio", "bytes")
    if config.series_keys is not None:
        return config.series_keys
    if config.audio.key or config.image_key or any(c.kind in others for c in table.values()):
        return ()
    return tuple(key for key, c in table.items() if c.kind == "lists" and "int" not in c.type_name)


def _select_sample_column(
    table: Mapping[str, Column], config: DataConfig, channels: tuple[str, ...], origin: str
) -> tuple[Modality, str, str]:
    """Return the modality, the setting that names the sample column, and the column."""
    if channels:
        return "tensor", "series_keys", channels[0]
    if config.audio.key is not None:
        return "audio", "audio.key", config.audio.key
    if config.image_key is not None:
        return "image", "image_key", config.image_key
    audio_columns = [
        key
        for key, column in table.items()
        if column.kind == "audio" or (key in AUDIO_KEYS and column.kind in ("image", "bytes"))
    ]
    if audio_columns:
        key = _select_by_name(audio_columns, AUDIO_KEYS, "sound.key", table, origin)
        assert key is not None
        return "audio", "audio.key", key
    image_columns = [key for key, column in table.items() if column.kind in ("image", "bytes")]
    image = _select_by_name(image_columns, IMAGE_KEYS, "image_key", table, origin)
    if image is None:
        raise DataError(
            f"{origin}: no image or sound column among {', '.join(table)}; set data.image_key, "
            "data.audio.key or data.series_keys"
        )
    return "image", "image_key", image


def _select_label_column(table: Mapping[str, Column], origin: str) -> str | None:
    """Return the label column; plain numbers are labels only in a column with a usual name."""
    classes = [key for key, column in table.items() if column.kind == "classes"]
    numbers = [key for key in LABEL_KEYS if key in table and table[key].kind == "numbers"]
    return _select_by_name(classes or numbers, LABEL_KEYS, "label_key", table, origin)


def label_note(table: Mapping[str, Column], chosen: SelectedColumns) -> str | None:
    """Return a note on a column with a label's name that is not read, or not as declared."""
    if chosen.label is not None:
        if table[chosen.label].names_ignored:
            return (
                f"column {chosen.label!r} declares classes without a list of their names; its "
                "numbers are read"
            )
        return None
    unread = [key for key in LABEL_KEYS if key in table and key != chosen.sample]
    for key in unread:
        if table[key].kind == "texts":
            return (
                f"column {key!r} holds texts and is not read; set data.label_key to it for classes"
            )
    if unread:
        return (
            f"column {unread[0]!r} holds {table[unread[0]].type_name} and is not read; store "
            "classes as integers or texts, or set data.label_key to another column"
        )
    return None


def _select_by_name(
    candidates: list[str],
    usual: tuple[str, ...],
    setting: str,
    table: Mapping[str, Column],
    origin: str,
) -> str | None:
    """Return the candidate with a usual name, or the only candidate; None for no candidates.

    Raises:
        DataError: several candidates fit, and none has a usual name.
    """
    for key in usual:
        if key in candidates:
            return key
    if len(candidates) > 1:
        raise DataError(
            f"{origin}: {len(candidates)} columns could be the {_COLUMN_SETTINGS[setting]} "
            f"({', '.join(candidates)}, of {', '.join(table)}); set data.{setting}"
        )
    return candidates[0] if candidates else None
