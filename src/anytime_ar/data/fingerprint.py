"""Detect that a data set has changed, from its sizes, labels and digests.

Samples in memory are hashed completely, or with a stride if they exceed 256 MiB. For streams, the
names, sizes and content of their local files are hashed, the content likewise with a stride.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from anytime_ar.config import Config, format_validation_error
from anytime_ar.data.config import DataConfig
from anytime_ar.data.loading import EMBEDDED_SOURCES, DataSplits, local_data_path
from anytime_ar.data.splits import MemorySplit, Split
from anytime_ar.errors import DataError, InputError
from anytime_ar.media.series import ChannelRanges

_MAX_HASHED_BYTES = 2**28
"""Most bytes of a split, or of the files of a stream, that are hashed."""
_BLOCK_BYTES = 2**16
"""Bytes of files that are hashed or skipped together."""
_MAX_SHOWN = 10
"""Most labels that a message names."""


class FilesFingerprint(Config):
    """The number, size and digest of a local data set's files."""

    count: int
    bytes: int
    sha256: str
    """Digest of the relative names and sizes of the files."""
    content_sha256: str | None = None
    """Digest of the content; None in runs that were begun without it."""

    def __str__(self) -> str:
        """Describe number, size and digest of the files in words."""
        return f"{self.count} files of {self.bytes:,} bytes ({self.sha256[:8]})"

    def with_content(self) -> str:
        """Describe the files in words, their content included."""
        return f"{self}, content {(self.content_sha256 or '')[:16]}"


class SplitFingerprint(Config):
    """The number of samples and the digest of one split."""

    samples: int | None
    """Number of samples; None for a stream of unknown size."""
    sha256: str | None
    """Digest of samples and labels; None if they are not in memory."""


class DataFingerprint(Config):
    """The fingerprint of a data set, as a run has read it."""

    sample_shape: tuple[int, ...]
    sample_rate: int | None
    labels: tuple[str, ...] | None
    splits: dict[str, SplitFingerprint]
    files: FilesFingerprint | None
    """Fingerprint of the files of a streamed local set."""
    left_out: tuple[str, ...] = ()
    """Samples and files that were left out, in words."""
    channel_ranges: ChannelRanges | None = None
    """Ranges of the channels of series, by which the samples are scaled."""
    path: str | None = None
    """Absolute path of a local set; None for another set, or if the path is no text."""

    @classmethod
    def load(cls, path: Path) -> DataFingerprint | None:
        """Read the fingerprint that a run has stored; return None if there is no such file.

        Raises:
            InputError: the file is damaged.
        """
        if not path.exists():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InputError(
                f"{path} is damaged ({format_validation_error(error)}); remove it if the data is "
                "as it was"
            ) from error

    @property
    def has_digest(self) -> bool:
        """Return whether there is a digest of samples or files, which tells data sets apart."""
        return self.files is not None or any(split.sha256 for split in self.splits.values())

    def changes_since(self, earlier: DataFingerprint) -> list[str]:
        """Return the changes since an earlier fingerprint: `train has 45 samples, had 40`."""
        changes = []
        for name, now in self.splits.items():
            before = earlier.splits.get(name, SplitFingerprint(samples=None, sha256=None))
            if now.samples != before.samples:
                changes.append(f"{name} has {now.samples} samples, had {before.samples}")
            elif None not in (now.sha256, before.sha256) and now.sha256 != before.sha256:
                changes.append(f"{name} has as many samples as before, but others")
        if self.labels != earlier.labels:
            changes.append(
                f"labels are {format_labels(self.labels)}; were {format_labels(earlier.labels)}"
            )
        if self.sample_shape != earlier.sample_shape:
            changes.append(f"samples are {self.sample_shape}, were {earlier.sample_shape}")
        if self.channel_ranges != earlier.channel_ranges:
            changes.append("the ranges of the channels of the series differ")
        if self.sample_rate != earlier.sample_rate:
            changes.append(f"sounds have {self.sample_rate} Hz, had {earlier.sample_rate}")
        if self.files is not None and earlier.files is not None:
            content = self.files.content_sha256, earlier.files.content_sha256
            if self.files.sha256 != earlier.files.sha256:
                changes.append(f"there are {self.files}, were {earlier.files}")
            elif None not in content and content[0] != content[1]:
                changes.append("files have names and sizes as before, but other content")
        return changes


def data_fingerprint(data: DataSplits) -> DataFingerprint:
    """Return the fingerprint of a loaded data set."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    path = str(_absolute_path(data.config) or "")
    is_text = path.encode(errors="ignore").decode() == path  # not so for names of other encodings
    return DataFingerprint(
        sample_shape=data.sample_shape,
        sample_rate=data.sample_rate,
        channel_ranges=data.channel_ranges,
        labels=data.label_names,
        splits={name: _split_fingerprint(split) for name, split in splits.items()},
        files=files_fingerprint(data.config) if data.config.streaming else None,
        left_out=data.notes,
        path=path if path and is_text else None,
    )


def _absolute_path(config: DataConfig) -> Path | None:
    """Return the absolute path of a local data set; None for an embedded or a Hub set."""
    path = local_data_path(config.name)
    return None if config.name in EMBEDDED_SOURCES or not path.exists() else path.absolute()


def find_moved_data(config: DataConfig, folder: Path) -> DataConfig:
    """Return the data configuration of a run, with a name that exists here.

    A relative path counts from the current folder. If nothing is there, the data is looked for
    where the run has last read it.

    Args:
        config: the data as the run names it.
        folder: folder of the run, with its data.json.

    Raises:
        DataError: the data is in neither place.
        InputError: data.json is damaged.
    """
    if local_data_path(config.name).exists():
        return config
    earlier = DataFingerprint.load(folder / "data.json")
    if earlier is None or earlier.path is None:
        return config
    if Path(earlier.path).exists():
        return config.model_copy(update={"name": earlier.path})
    raise DataError(
        f"the data of {folder} is no longer at {earlier.path}, and {config.name!r} does not exist "
        f"in {Path.cwd()}; set data.name to its path"
    )


def files_fingerprint(config: DataConfig) -> FilesFingerprint | None:
    """Return the fingerprint of a data set's files; None for an embedded or a Hub set."""
    root = _absolute_path(config)
    if root is None:
        return None
    paths = (
        [root] if root.is_file() else sorted(p for p in root.rglob("*") if _is_data_file(p, root))
    )
    digest, size = hashlib.sha256(), 0
    sizes: dict[Path, int] = {}
    for path in paths:
        sizes[path] = here = path.stat().st_size
        name = path.name if path == root else path.relative_to(root).as_posix()
        digest.update(f"{name}\0{here}\n".encode(errors="surrogateescape"))
        size += here
    return FilesFingerprint(
        count=len(paths),
        bytes=size,
        sha256=digest.hexdigest(),
        content_sha256=_content_digest(sizes),
    )


def _content_digest(sizes: Mapping[Path, int]) -> str:
    """Return a digest of files one after the other, of every n-th block if they are large.

    Files without such a block are not opened. One that cannot be read is left to its reader.

    Args:
        sizes: size of each file, in bytes.
    """
    digest, position = hashlib.sha256(), 0
    step = max(1, math.ceil(sum(sizes.values()) / _MAX_HASHED_BYTES))
    for path, size in sizes.items():
        count = math.ceil(size / _BLOCK_BYTES)
        blocks = range(-position % step, count, step)
        position += count
        if blocks:
            with suppress(OSError), path.open("rb") as file:
                for block in blocks:
                    file.seek(block * _BLOCK_BYTES)
                    digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def _is_data_file(path: Path, root: Path) -> bool:
    """Return whether a path is a file that is not hidden, nor in a hidden folder below `root`."""
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)


def _split_fingerprint(split: Split) -> SplitFingerprint:
    """Return the fingerprint of a split, with a digest if it is in memory."""
    if not isinstance(split, MemorySplit):
        return SplitFingerprint(samples=split.size, sha256=None)
    step = math.ceil(split.samples.nbytes / _MAX_HASHED_BYTES) or 1
    digest = hashlib.sha256(split.samples[::step].contiguous().numpy().data)
    if split.labels is not None:
        digest.update(split.labels.contiguous().numpy().data)
    return SplitFingerprint(samples=len(split), sha256=digest.hexdigest())


def format_labels(labels: tuple[str, ...] | None) -> str:
    """Return the labels in words, at most `_MAX_SHOWN` of them."""
    if labels is None:
        return "none"
    rest = f" and {len(labels) - _MAX_SHOWN} more" if len(labels) > _MAX_SHOWN else ""
    return ", ".join(labels[:_MAX_SHOWN]) + rest
