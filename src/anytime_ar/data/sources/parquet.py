"""Open local parquet files in the Hugging Face layout, one or more for each split.

pyarrow reads them directly, because the library `datasets` takes paths for patterns and URLs.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from anytime_ar.data.config import DataConfig
from anytime_ar.data.rows import DataSource
from anytime_ar.data.sources import ShardName, parse_shard_name
from anytime_ar.data.sources.folders import (
    format_counts,
    is_sample,
    is_system_file,
    scan_folder,
)
from anytime_ar.data.sources.tables import READ_BATCH_ROWS, Column, first_line, table_source
from anytime_ar.errors import DataError, require_extras

_SUFFIX = ".parquet"
_MAX_BATCH_BYTES = 1 << 26
"""Most bytes of rows that are decoded at once, unless one row is larger."""


def parquet_source(config: DataConfig, path: Path) -> DataSource | None:
    """Open a parquet file as the split `train`, or a folder of parquet files.

    The files of a folder are named `train.parquet`, `test-00000-of-00002.parquet` and the like, or
    lie in one sub-folder for each split. A clone of a Hub repository has them in `data` or in a
    sub-folder for each configuration.

    Args:
        config: the data set, and the columns to read.
        path: the file or folder.

    Returns:
        None if the folder has no parquet file at the expected places.

    Raises:
        DataError: a file is not parquet, there is no training split, shards do not belong together,
            or no column fits.
        MissingExtraError: the extra `data` is not installed.
    """
    notes: list[str] = []
    folder, files = _files_by_split(path, notes)
    if not files:
        return None
    if "train" not in files:
        raise DataError(
            f"{config.name}: no split called train, only {', '.join(files)}; pass the path of one "
            "parquet file to split it, or rename it"
        )
    for split, stored in files.items():
        if not any(file.num_rows for file in stored):
            raise DataError(
                f"{stored[0].path if stored else path}: no rows in the {split} split; fetch it "
                "again, or move it elsewhere"
            )
    empty = [file.path for stored in files.values() for file in stored if not file.num_rows]
    if empty:
        notes.append(f"left out {_format_names(empty)}, which hold no rows")
    if path.is_dir():
        _note_unread_files(path, folder, {file.path for s in files.values() for file in s}, notes)
    return table_source(
        config, {split: ParquetTable(stored) for split, stored in files.items()}, notes
    )


def is_parquet(path: Path) -> bool:
    """Return whether a file has the suffix of parquet."""
    return path.suffix.lower() == _SUFFIX


def _files_by_split(path: Path, notes: list[str]) -> tuple[Path, dict[str, list[ParquetFileInfo]]]:
    """Return the folder that is read and its sorted files by split.

    That is the file itself, or the folder, or its sub-folder `data`, or the only sub-folder with a
    training split.

    Raises:
        DataError: several sub-folders have a training split.
    """
    if path.is_file() or is_parquet(path):
        return path, {"train": inspect_parquet(path)} if path.exists() else {}
    for folder in (path, path / "data"):
        if folder.is_dir() and (found := _files_of_shards(folder, notes)):
            return folder, found
    inner = _configuration_folders(path)
    if not inner or any(scan_folder(path, Counter()).sample_paths()):
        return path, {}
    if len(inner) > 1:
        raise DataError(
            f"{path}: holds several data sets ({_format_names(inner)}); choose one by data.subset, "
            "or pass its path"
        )
    return inner[0], _files_of_shards(inner[0], notes)


def _configuration_folders(root: Path) -> list[Path]:
    """Return the sub-folders with a training split; Hub sets have one for each configuration."""
    found = []
    for folder in sorted(root.iterdir()):
        if _is_ignored(folder.name) or not folder.is_dir():
            continue
        with suppress(OSError):  # `scan_folder` reports a folder that cannot be listed
            named = [path for path in folder.iterdir() if is_parquet(path) or _holds_parquet(path)]
            shards = [parse_shard_name(path.stem) for path in named]
            if any(shard is not None and shard.split == "train" for shard in shards):
                found.append(folder)
    return found


def _holds_parquet(path: Path) -> bool:
    """Return whether a path is a folder with parquet files directly in it."""
    return path.is_dir() and any(is_parquet(file) for file in path.iterdir())


def _note_unread_files(root: Path, folder: Path, read: set[Path], notes: list[str]) -> None:
    """Note the parquet files, images and audio files below a folder that are not read.

    Args:
        root: the folder of the data set.
        folder: the folder whose files name splits, `root` or `root/data`.
        read: the files that are read.
        notes: receives the notes.
    """
    unnamed: list[Path] = []
    elsewhere: list[Path] = []
    samples: Counter[str] = Counter()
    seen = {os.path.realpath(root)}
    for parent, folders, files in os.walk(root, followlinks=True):
        inner = {name: os.path.realpath(Path(parent, name)) for name in sorted(folders)}
        folders[:] = [n for n, real in inner.items() if not _is_ignored(n) and real not in seen]
        seen.update(inner.values())  # a link may lead back
        for path in (Path(parent, name) for name in sorted(files) if not _is_ignored(name)):
            if is_sample(path):
                samples[path.suffix.lower()] += 1
            elif is_parquet(path) and path not in read:
                (unnamed if path.parent == folder else elsewhere).append(path)
    if unnamed:
        notes.append(f"left out {_format_names(unnamed)}, which are not named as splits")
    if elsewhere:
        notes.append(
            f"left out {_format_names(elsewhere, root)}, which do not lie in {folder} or in one "
            "folder for each split in it"
        )
    if samples:
        notes.append(
            f"left out {samples.total()} images or sounds that lie beside parquet files: "
            f"{format_counts(samples)}"
        )


def _is_ignored(name: str) -> bool:
    """Return whether a file or folder is hidden, or left by an operating system or a tool."""
    return name.startswith(".") or is_system_file(name)


def _parquet_files_in(folder: Path) -> list[Path]:
    """Return the parquet files directly in a folder, sorted, without hidden ones.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}); change its permissions, or move it "
            "elsewhere"
        ) from error
    return [path for path in children if is_parquet(path) and not path.name.startswith(("_", "."))]


def _files_of_shards(folder: Path, notes: list[str]) -> dict[str, list[ParquetFileInfo]]:
    """Return files by split; a folder with the name of a split stands for its files."""
    found: dict[str, dict[Path, ShardName]] = {}
    named = _parquet_files_in(folder)
    named += [
        path for path in sorted(folder.iterdir()) if path.is_dir() and parse_shard_name(path.name)
    ]
    for path in named:
        shard = parse_shard_name(path.stem if is_parquet(path) else path.name)
        if path.is_dir() and not _parquet_files_in(path):
            continue
        if shard is not None:
            found.setdefault(shard.split, {})[path] = shard
    files: dict[str, list[ParquetFileInfo]] = {}
    for split, shards in found.items():
        stored = {path: inspect_parquet(path) for path in sorted(shards)}
        filled = {path for path in stored if any(file.num_rows for file in stored[path])}
        _check_shards(folder, split, shards, filled, notes)
        files[split] = [file for path in stored for file in stored[path]]
    return files


def _check_shards(
    folder: Path, split: str, shards: dict[Path, ShardName], filled: set[Path], notes: list[str]
) -> None:
    """Check that files can all be shards of one split, and note missing ones; ignore empty ones.

    Args:
        folder: the folder, for messages.
        split: name of the split.
        shards: the files and the parts of their names.
        filled: the files that have rows.
        notes: receives a note about missing shards.

    Raises:
        DataError: names are written differently, or a number occurs twice.
    """
    names = [shards[path] for path in filled]
    spellings = {(each.spelling, each.number is None, each.num_shards) for each in names}
    if len(spellings) > 1 or len({each.number for each in names}) < len(names):
        raise DataError(
            f"{folder}: {_format_names(sorted(filled))} cannot all be shards of the {split} split; "
            "keep one set of them there, or pass the path of one"
        )
    total = names[0].num_shards if names else None
    numbers = {shard.number for shard in shards.values() if shard.number is not None}
    if total is None:
        return
    # The total is a number in a file name, so nothing of its size is allocated.
    missing = total - sum(number < total for number in numbers)
    # Some data sets count shards from 1.
    if missing > 0 and not (missing == 1 and 0 not in numbers and total in numbers):
        notes.append(f"{missing} of {total} shards of the {split} split are not there")


def _format_names(paths: list[Path], root: Path | None = None) -> str:
    """Return the files' names, or their paths below a root, in words, at most eight of them."""
    names = [path.name if root is None else str(path.relative_to(root)) for path in paths]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


class ParquetFileInfo(NamedTuple):
    """The metadata of a parquet file."""

    path: Path
    num_rows: int
    columns: Mapping[str, Column]
    """Kind of each column, by name."""


class ParquetTable:
    """Several parquet files as one table, in order.

    Args:
        files: the files, of which at least one has rows; empty ones are left out.
    """

    def __init__(self, files: Sequence[ParquetFileInfo]) -> None:
        """Store the files that have rows, and the row number at which each ends."""
        self._files = [file for file in files if file.num_rows]
        self._ends = list(accumulate(file.num_rows for file in self._files))

    @property
    def columns(self) -> Mapping[str, Column]:
        """Return the columns of the first file that has rows; see `Table`."""
        return self._files[0].columns

    @property
    def size(self) -> int:
        """Return the number of rows; see `Table`."""
        return self._ends[-1] if self._ends else 0

    def origin(self, index: int) -> str:
        """Return the file and the number of a row in it, for messages; see `Table`."""
        part = min(bisect_right(self._ends, index), len(self._ends) - 1)
        return f"{self._files[part].path} row {index - self._first_row_of(part)}"

    def parts(self) -> Iterator[tuple[str, Mapping[str, Column]]]:
        """Yield the path and the columns of each file that has rows; see `Table`."""
        return ((str(file.path), file.columns) for file in self._files)

    def _first_row_of(self, part: int) -> int:
        """Return the row number in the table at which a file begins."""
        return self._ends[part] - self._files[part].num_rows

    def read(self, keys: Sequence[str], start: int = 0) -> Iterator[dict[str, list[Any]]]:
        """Yield batches of some columns; see `Table`.

        Raises:
            DataError: a file is damaged.
        """
        for part in range(bisect_right(self._ends, start), len(self._files)):
            skipped = max(0, start - self._first_row_of(part))
            yield from _read_file(self._files[part], keys, skipped)


def _read_file(
    file: ParquetFileInfo, keys: Sequence[str], start: int
) -> Iterator[dict[str, list[Any]]]:
    """Yield batches of some columns of a file from row `start` on."""
    import pyarrow
    from pyarrow import parquet

    known = [key for key in keys if key in file.columns]
    if not known:
        yield {key: [None] * (file.num_rows - start) for key in keys}
        return
    row = start
    try:
        with file.path.open("rb") as content, parquet.ParquetFile(content) as stored:
            groups, start = _row_groups_from(stored.metadata, start)
            count = _rows_at_once(stored.metadata)
            for batch in stored.iter_batches(count, row_groups=groups, columns=known):
                skipped = min(start, len(batch))
                start -= skipped
                batch = batch.slice(skipped)
                if not len(batch):
                    continue
                # By index: a dot in a name would select a field of a struct.
                indices = {key: batch.schema.get_field_index(key) for key in known}
                yield {
                    key: batch.column(indices[key]).to_pylist()
                    if key in indices
                    else [None] * len(batch)
                    for key in keys
                }
                row += len(batch)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{file.path} row {row}: cannot be read from here on ({first_line(error)}); the file "
            "is damaged, fetch it again"
        ) from error


def _rows_at_once(metadata: Any) -> int:
    """Return how many rows to decode at once: fewer than usual if they are large."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    row_bytes = max(
        (group.total_byte_size // max(1, group.num_rows) for group in groups), default=0
    )
    return max(1, min(READ_BATCH_ROWS, _MAX_BATCH_BYTES // max(1, row_bytes)))


def _row_groups_from(metadata: Any, start: int) -> tuple[list[int], int]:
    """Return the row groups from row `start` on, and how many rows of the first to skip."""
    first = 0
    while first < metadata.num_row_groups and start >= metadata.row_group(first).num_rows:
        start -= metadata.row_group(first).num_rows
        first += 1
    return list(range(first, metadata.num_row_groups)), start


def inspect_parquet(path: Path) -> list[ParquetFileInfo]:
    """Read the metadata of a parquet file, or of all those in a folder, in order.

    Args:
        path: the file or folder.

    Raises:
        DataError: a file is not parquet.
        MissingExtraError: the extra `data` is not installed.
    """
    require_extras("a parquet file", "data", module="pyarrow")
    return [_inspect_file(file) for file in (_parquet_files_in(path) if path.is_dir() else [path])]


def _inspect_file(path: Path) -> ParquetFileInfo:
    """Read the metadata of one parquet file.

    Raises:
        DataError: it is not parquet, or has two columns of one name.
    """
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():  # reading a pipe would block
        raise DataError(f"{path}: is not there, or no file; restore it, or move it elsewhere")
    try:
        with path.open("rb") as content, parquet.ParquetFile(content) as stored:
            rows, schema = stored.metadata.num_rows, stored.schema_arrow
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path}: does not read as parquet ({first_line(error)}); fetch it again"
        ) from error
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: has two columns {twice[0]!r}; rename one")
    declared = _declared_features(schema.metadata or {})
    return ParquetFileInfo(
        path, rows, {field.name: _column(field.type, declared.get(field.name)) for field in schema}
    )


def _declared_features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return the features that the library `datasets` declares for columns; empty for none."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _column(stored: Any, declared: Any) -> Column:
    """Return the kind of a column from its Arrow type and its declared feature."""
    from pyarrow import types

    while types.is_dictionary(stored):
        stored = stored.value_type
    noted = declared if isinstance(declared, dict) else {}
    type_name = str(stored)
    holds_bytes = _is_bytes(stored) or (
        types.is_struct(stored) and any(stored[i].name == "bytes" for i in range(len(stored)))
    )
    feature = noted.get("_type")
    if holds_bytes:
        if feature == "Image":
            return Column("image", type_name)
        return Column("audio" if feature == "Audio" else "bytes", type_name)
    if types.is_integer(stored) and feature == "ClassLabel":
        names = _class_names(noted.get("names"))
        return Column("classes" if names else "numbers", type_name, names, not names)
    if types.is_integer(stored) or types.is_boolean(stored) or types.is_floating(stored):
        return Column("numbers", type_name)
    if types.is_string(stored) or types.is_large_string(stored) or types.is_string_view(stored):
        return Column("texts", type_name)
    if _is_list_of_numbers(stored):
        return Column("lists", type_name)
    return Column("other", type_name)


def _is_list_of_numbers(stored: Any) -> bool:
    """Return whether an Arrow type holds lists of numbers, or lists of such lists."""
    from pyarrow import types

    depth = 0
    while types.is_list(stored) or types.is_large_list(stored) or types.is_fixed_size_list(stored):
        stored, depth = stored.value_type, depth + 1
    return depth in (1, 2) and (types.is_integer(stored) or types.is_floating(stored))


def _class_names(declared: Any) -> tuple[str, ...]:
    """Return the declared names of classes; none if they are not a list of texts or integers."""
    if not isinstance(declared, list) or not all(isinstance(name, str | int) for name in declared):
        return ()
    return tuple(str(name).encode("utf-8", "backslashreplace").decode() for name in declared)


def _is_bytes(stored: Any) -> bool:
    """Return whether an Arrow type holds bytes."""
    from pyarrow import types

    return (
        types.is_binary(stored)
        or types.is_large_binary(stored)
        or types.is_binary_view(stored)
        or types.is_fixed_size_binary(stored)
    )
