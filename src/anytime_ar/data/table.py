"""Rows of a Hugging Face table, whether it is on disk or streamed."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anytime_ar.data.columns import Columns
from anytime_ar.data.rows import Encoded, Row
from anytime_ar.errors import DataError

_READ_AT_ONCE = 256  # rows; one at a time, the library's overhead is three times the decoding


class TableRows:
    """Rows of one `datasets.Dataset` or `IterableDataset`, samples left encoded."""

    def __init__(
        self, table: Any, columns: Columns, size: int | None, origin: Callable[[int], str]
    ) -> None:
        """`origin(i)` names row `i` in messages."""
        import datasets

        for encoded in (datasets.Image, datasets.Audio):
            if isinstance(table.features[columns.sample], encoded):
                table = table.cast_column(columns.sample, encoded(decode=False))
        wanted = [columns.sample] if columns.label is None else [columns.sample, columns.label]
        self._table = table.select_columns(wanted)
        self._columns = columns
        self._size = size
        self._origin = origin

    @property
    def size(self) -> int | None:
        return self._size

    def read(self, start: int = 0) -> Iterator[Row]:
        if self._size is not None and start >= self._size:
            return
        index = start
        for batch in batches(self._table, start, self._origin):
            samples = batch[self._columns.sample]
            labels = [None] * len(samples)
            if self._columns.label is not None:
                labels = batch[self._columns.label]
            for sample, label in zip(samples, labels, strict=True):
                origin = self._origin(index)
                yield Row(index, _encoded(sample, origin), self._checked(label, origin), origin)
                index += 1

    def index_of(self, position: int) -> int:
        return position

    def _checked(self, label: int | str | None, origin: str) -> int | None:
        if self._columns.label is None:
            return None
        names = self._columns.label_names
        if isinstance(label, str) and names is not None and label in names:
            return names.index(label)
        if isinstance(label, int) and label >= 0 and (names is None or label < len(names)):
            return int(label)
        raise DataError(
            f"{origin}: label {label} is not one of the classes "
            f"{'' if names is None else f'0 to {len(names) - 1}'}; set data.label_key to "
            "another column, or repair the file"
        )


def batches(table: Any, start: int, origin: Callable[[int], str]) -> Iterator[dict[str, list[Any]]]:
    """The table's batches from row `start` on; what the library raises becomes one clear error."""
    from datasets.exceptions import DatasetsError

    index = start
    stored = table.skip(start).iter(batch_size=_READ_AT_ONCE)
    # A stream still open when the interpreter ends fails in pyarrow's teardown; close it before.
    atexit.register(stored.close)
    try:
        for batch in stored:
            yield batch
            index += len(next(iter(batch.values())))
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(
            f"{origin(index)}: cannot be read from here on ({first_line(error)}); the file is "
            "damaged or the connection was lost, fetch it again"
        ) from error
    finally:
        atexit.unregister(stored.close)
        stored.close()


def first_line(error: Exception) -> str:
    """What an error of another library says, short enough for ours."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _encoded(value: Any, origin: str) -> Encoded:
    """The bytes of a sample's cell, fetched where the cell only has a path."""
    if isinstance(value, bytes):
        return value
    content = value.get("bytes") if isinstance(value, dict) else None
    if isinstance(content, bytes):
        return content
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str):
        raise DataError(
            f"{origin}: holds no bytes of an image or sound; repair the file, or set "
            "data.image_key or data.sound.key"
        )
    if "://" not in path:
        return Path(path)
    import fsspec

    with fsspec.open(path, "rb") as file:  # a file of a streamed Hub set
        remote: bytes = file.read()
    return remote
