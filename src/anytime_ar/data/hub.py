"""Hugging Face data sets: from the Hub by id, and parquet files in the same layout."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

from anytime_ar.data.columns import find_columns
from anytime_ar.data.config import DataConfig
from anytime_ar.data.folders import SPLIT_FOLDERS
from anytime_ar.data.rows import Rows, Source
from anytime_ar.data.table import TableRows, batches, first_line
from anytime_ar.errors import DataError, MissingExtraError, install_command


def require_datasets() -> Any:
    """The `datasets` module.

    Raises:
        MissingExtraError: it is not installed.
    """
    if "datasets" not in sys.modules and find_spec("datasets") is None:
        raise MissingExtraError(
            f"Hub and parquet data sets need the package datasets: {install_command('data')}"
        )
    import datasets

    return datasets


def hub_source(config: DataConfig) -> Source:
    """Read a data set of the Hub; unless streaming, its files are kept in the local cache.

    Raises:
        DataError: the set is unknown, the Hub cannot be reached, or no column fits.
        MissingExtraError: the extra `data` is not installed.
    """
    datasets = require_datasets()
    asked = f"datasets.load_dataset({config.name!r}, {config.subset!r})"
    try:
        tables = datasets.load_dataset(
            config.name, config.subset, revision=config.revision, streaming=config.streaming
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data set {config.name!r}: no such local path, and {asked} failed "
            f"({first_line(error)}); check the spelling, data.subset and the network, or pass a "
            "local folder"
        ) from error
    sizes: dict[str, int | None] = {}
    for split, table in tables.items():
        if isinstance(table, datasets.IterableDataset):
            known = (table.info.splits or {}).get(split)
            sizes[split] = known.num_examples if known is not None else None
        else:
            sizes[split] = len(table)

    def origin_in(split: str) -> Callable[[int], str]:
        return lambda index: f"{config.name} {split} row {index}"

    return _source(config, tables, sizes, {split: origin_in(split) for split in tables})


def parquet_source(config: DataConfig, path: Path) -> Source | None:
    """Read a parquet file (all of it `train`), or a folder of `train*.parquet` and the like.

    The files are streamed even where the samples end up in memory: that is as fast, and leaves no
    second copy in the library's cache.

    Returns:
        None if the folder has no parquet file where this layout has them.

    Raises:
        DataError: a file is not parquet, or there is no training split, or no column fits.
        MissingExtraError: the extra `data` is not installed.
    """
    files = {"train": [path]} if path.is_file() else _parquet_files(config, path)
    if not files:
        return None
    datasets = require_datasets()
    counts = {split: [_row_count(file) for file in paths] for split, paths in files.items()}
    tables = datasets.load_dataset(
        "parquet",
        data_files={split: [str(file) for file in paths] for split, paths in files.items()},
        streaming=True,
    )

    def origin_in(split: str) -> Callable[[int], str]:
        ends = list(accumulate(counts[split]))

        def origin(index: int) -> str:
            part = min(bisect_right(ends, index), len(ends) - 1)
            return f"{files[split][part]} row {index - (ends[part] - counts[split][part])}"

        return origin

    sizes: dict[str, int | None] = {split: sum(count) for split, count in counts.items()}
    return _source(config, tables, sizes, {split: origin_in(split) for split in files})


def _parquet_files(config: DataConfig, root: Path) -> dict[str, list[Path]]:
    """Sorted files by split, in the folder itself, the configured sub-folder, or `data/`."""
    if config.subset is not None and not (root / config.subset).is_dir():
        raise DataError(f"{root / config.subset}: no such folder; check data.subset")
    for folder in [root / config.subset] if config.subset else [root, root / "data"]:
        found = {
            split: paths
            for split, names in SPLIT_FOLDERS.items()
            if (paths := sorted({p for name in names for p in folder.glob(f"{name}*.parquet")}))
        }
        if found:
            return found
    return {}


def _row_count(file: Path) -> int:
    import pyarrow
    from pyarrow import parquet

    try:
        rows: int = parquet.read_metadata(file).num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{file}: does not read as parquet ({first_line(error)}); fetch it again"
        ) from error
    return rows


def _source(
    config: DataConfig,
    tables: dict[str, Any],
    sizes: dict[str, int | None],
    origins: dict[str, Callable[[int], str]],
) -> Source:
    """Rows of the splits we use, under our names for them."""
    stored = {
        split: next((name for name in names if name in tables), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    if stored["train"] is None:
        raise DataError(
            f"{config.name}: no split called train, only {', '.join(tables)}; pass the path of one "
            "parquet file to split it, or rename it"
        )
    used = {split: name for split, name in stored.items() if name is not None}
    features = tables[used["train"]].features
    if features is None:
        raise DataError(
            f"{config.name}: does not declare its columns, which streaming needs; "
            "set data.streaming to false"
        )
    columns = find_columns(features, config, config.name)
    if columns.label is not None and columns.label_names is None:
        columns = columns._replace(
            label_names=_named(tables, used.values(), origins, columns.label)
        )
    splits: dict[str, Rows] = {
        split: TableRows(tables[name], columns, sizes[name], origins[name])
        for split, name in used.items()
    }
    return Source(splits, columns.label_names, columns.kind)


def _named(
    tables: dict[str, Any],
    used: Iterable[str],
    origins: dict[str, Callable[[int], str]],
    key: str,
) -> tuple[str, ...]:
    """Names of labels, for which their column is read once: strings in alphabetical order, or "0",
    "1", ... up to the largest integer."""
    found: set[int | str] = {0}
    for name in used:
        for batch in batches(tables[name].select_columns([key]), 0, origins[name]):
            found.update(label for label in batch[key] if label is not None)
    strings = sorted(label for label in found if isinstance(label, str))
    if strings:
        return tuple(strings)
    return tuple(str(label) for label in range(max(map(int, found)) + 1))
