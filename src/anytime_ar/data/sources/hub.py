"""Open Hugging Face data sets from the Hub by their id."""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from anytime_ar.data.config import DataConfig
from anytime_ar.data.rows import DataSource
from anytime_ar.data.sources import canonical_split
from anytime_ar.data.sources.tables import READ_BATCH_ROWS, Column, first_line, table_source
from anytime_ar.errors import DataError, require_extras

_BINARY_TYPES = ("binary", "large_binary", "binary_view", "fixed_size_binary")
_STRING_TYPES = ("string", "large_string", "string_view")


def hub_source(config: DataConfig) -> DataSource:
    """Open a data set of the Hub; unless streaming, its files are stored in the local cache.

    Args:
        config: the data set, whose name is a Hub id.

    Raises:
        DataError: the set is unknown, the Hub cannot be reached, or no column fits.
        MissingExtraError: the extra `data` is not installed.
    """
    require_extras(f"data set {config.name!r} of the Hub", "data")
    import datasets

    call = f"datasets.load_dataset({config.name!r}, {config.subset!r})"
    try:
        stored = datasets.load_dataset(
            config.name, config.subset, revision=config.revision, streaming=config.streaming
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data set {config.name!r}: no such path in {Path.cwd()}, and {call} failed "
            f"({first_line(error)}); check the spelling, data.subset and the network, or pass a "
            "local folder"
        ) from error
    return dataset_source(config, stored)


def dataset_source(config: DataConfig, stored: Mapping[str, Any]) -> DataSource:
    """Return data sets of the library `datasets` as the splits of one set.

    Args:
        config: name of the set, and the columns to read.
        stored: a `datasets.Dataset` or `IterableDataset` for each split, by name.

    Raises:
        DataError: there is no training split, or no column fits.
    """
    tables: dict[str, HubTable] = {}
    left_out = []
    for name, table in stored.items():
        split = canonical_split(name)
        if split is None or split in tables:
            left_out.append(name)
        else:
            tables[split] = HubTable(table, f"{config.name} {name}")
    if "train" not in tables:
        raise DataError(
            f"{config.name}: no split called train, only {', '.join(stored)}; pass the path of one "
            "parquet file to split it, or rename it"
        )
    if tables["train"].table.features is None:
        raise DataError(
            f"{config.name}: does not declare its columns, which streaming needs; "
            "set data.streaming to false"
        )
    notes = [f"left out the splits {', '.join(left_out)}"] if left_out else []
    return table_source(config, tables, notes)


class HubTable:
    """A table of the Hub: one `datasets.Dataset` or `IterableDataset`.

    Args:
        table: the data set of one split.
        name: name of set and split, for messages.
    """

    def __init__(self, table: Any, name: str) -> None:
        """Store the table; nothing is read yet."""
        self.table = table
        self._name = name

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """Return the columns by name; see `Table`."""
        features = self.table.features or {}
        return {key: _column(feature) for key, feature in features.items()}

    @property
    def size(self) -> int | None:
        """Return the number of rows, if it is known without reading them; see `Table`."""
        import datasets

        if not isinstance(self.table, datasets.IterableDataset):
            return len(self.table)
        split = self._name.rsplit(" ", 1)[1]
        known = (self.table.info.splits or {}).get(split)
        return known.num_examples if known is not None else None

    def origin(self, index: int) -> str:
        """Return the name of a row in messages; see `Table`."""
        return f"{self._name} row {index}"

    def parts(self) -> Iterator[tuple[str, Mapping[str, Column]]]:
        """Yield the table's name and columns; see `Table`."""
        yield self._name, self.columns

    def read(self, keys: Sequence[str], start: int = 0) -> Iterator[dict[str, list[Any]]]:
        """Yield batches of some columns; see `Table`.

        Raises:
            DataError: the file is damaged, or the connection was lost.
        """
        from datasets.exceptions import DatasetsError

        known = [key for key in keys if key in self.columns] or list(self.columns)[:1]
        table = self.table.select_columns(known)
        index = start
        stored = _disable_decoding(table).skip(start).iter(batch_size=READ_BATCH_ROWS)
        # A stream that is still open at interpreter exit fails in pyarrow's teardown, so it is
        # closed before.
        atexit.register(stored.close)
        try:
            for batch in stored:
                count = len(next(iter(batch.values())))
                yield {key: batch[key] if key in batch else [None] * count for key in keys}
                index += count
        except (OSError, ValueError, DatasetsError) as error:
            raise DataError(
                f"{self.origin(index)}: cannot be read from here on ({first_line(error)}); the "
                "file is damaged or the connection was lost, fetch it again"
            ) from error
        finally:
            atexit.unregister(stored.close)
            stored.close()


def _disable_decoding(table: Any) -> Any:
    """Return the table with its samples as encoded files."""
    import datasets

    for key, feature in (table.features or {}).items():
        for encoded in (datasets.Image, datasets.Audio):
            if isinstance(feature, encoded):
                table = table.cast_column(key, encoded(decode=False))
    return table


def _column(feature: Any) -> Column:
    """Return the kind of a column from its feature in the library `datasets`."""
    from datasets import Audio, ClassLabel, Image, Value

    type_name = str(feature)
    if isinstance(feature, ClassLabel):
        return Column("classes", type_name, tuple(feature.names or ()))
    if isinstance(feature, Image):
        return Column("image", type_name)
    if isinstance(feature, Audio):
        return Column("audio", type_name)
    if isinstance(feature, dict) and "bytes" in feature:
        return Column("bytes", type_name)
    dtype = feature.dtype if isinstance(feature, Value) else ""
    if dtype.startswith(_BINARY_TYPES):
        return Column("bytes", type_name)
    if dtype.startswith(_STRING_TYPES):
        return Column("texts", type_name)
    if dtype.startswith(("int", "uint", "bool", "float")):
        return Column("numbers", type_name)
    return Column("other", type_name)
