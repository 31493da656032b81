"""Open folders of images or audio files, with a sub-folder per class."""

from __future__ import annotations

import errno
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from anytime_ar.data.conditions import ConditionColumn
from anytime_ar.data.config import FolderLayout
from anytime_ar.data.rows import DataSource, InMemoryRows, Modality, Row, SplitRows
from anytime_ar.data.sources import canonical_split
from anytime_ar.data.sources.metadata import METADATA_NAMES, add_metadata
from anytime_ar.errors import DataError
from anytime_ar.media.formats import READABLE_AUDIO_SUFFIXES, READABLE_IMAGE_SUFFIXES


def folder_source(
    root: Path, layout: FolderLayout, conditions: Mapping[str, ConditionColumn] | None = None
) -> DataSource:
    """Read `root/class/*`, `root/{train,test,...}/class/*`, or either without class folders.

    Folders inside a class folder belong to that class. A split other than `train` may have no class
    folders; its samples then have no labels.

    Args:
        root: the folder.
        layout: whether the sub-folders are splits or classes; `auto` decides by their names.
        conditions: columns of the metadata beside the files, by the name of their condition.

    Raises:
        DataError: there are no samples, or both images and audio; files lie beside class folders;
            the splits differ in their classes; or the names do not show whether sub-folders are
            splits or classes.
    """
    left_out: Counter[str] = Counter()
    tree = scan_folder(root, left_out)
    if not any(tree.sample_paths()):
        holds = f"; it holds {format_counts(left_out)}" if left_out else ""
        raise DataError(
            f"{root}: no images or sounds in this folder{holds}; expected files (.png, .jpg, .wav, "
            ".flac, ...) in it or in one sub-folder per class, or train.parquet or "
            "train-00000-of-00002.parquet; of other parquet files pass the path of one"
        )
    notes: list[str] = []
    splits = _split_folders(tree, layout, notes)
    by_class = {name: _paths_by_class(folder, layout, notes) for name, folder in splits.items()}
    classes = sorted(name for name in by_class["train"] if name is not None)
    rows: dict[str, list[Row]] = {}
    for split, paths_of in by_class.items():
        _check_classes(paths_of, classes, splits["train"].path)
        pairs = [(path, name) for name, paths in paths_of.items() for path in paths]
        if not pairs:
            raise DataError(
                f"{splits[split].path}: no samples in this split; add some, or move it elsewhere"
            )
        rows[split] = [
            Row(i, path, None if name is None else classes.index(name), str(path))
            for i, (path, name) in enumerate(pairs)
        ]
    stored = add_metadata(rows, root, conditions) if conditions else None
    if left_out:
        notes.append(
            f"left out {left_out.total()} files that are no samples: {format_counts(left_out)}"
        )
    opened: dict[str, SplitRows] = {name: InMemoryRows(listed) for name, listed in rows.items()}
    return DataSource(
        opened,
        tuple(classes) or None,
        _modality(path for folder in splits.values() for path in folder.sample_paths()),
        notes=tuple(notes),
        conditions=stored,
    )


def _split_folders(tree: Folder, layout: FolderLayout, notes: list[str]) -> dict[str, Folder]:
    """Return the folder of each split; `train` is the tree itself if it has no splits.

    Args:
        tree: the root folder.
        layout: whether the sub-folders are splits or classes.
        notes: receives a note about samples that are left out.

    Raises:
        DataError: splits and classes are mixed, a split occurs twice, or `train` is missing.
    """
    named = [folder for folder in tree.subfolders if canonical_split(folder.path.name) is not None]
    if layout == "classes" or (
        layout == "auto" and not any(f in named for f in tree.nonempty_subfolders())
    ):
        return {"train": tree}
    others = [folder for folder in tree.nonempty_subfolders() if folder not in named]
    if others and layout == "auto":
        raise DataError(
            f"{tree.path}: {_format_names(named)} may be splits or classes, beside "
            f"{_format_names(others)}; set data.folder_layout to classes if all are classes, or to "
            "splits to read the first alone"
        )
    splits: dict[str, Folder] = {}
    for folder in named:
        split = canonical_split(folder.path.name)
        assert split is not None
        if split in splits:
            raise DataError(
                f"{tree.path}: {_format_names([splits[split], folder])} are both the {split} "
                "split; join them, or move one elsewhere"
            )
        splits[split] = folder
    if "train" not in splits:
        raise DataError(
            f"{tree.path}: no folder called train, only {_format_names(named) or 'others'}; rename "
            "one, or set data.folder_layout to classes if they are classes"
        )
    beside = len(tree.files) + sum(len(list(folder.sample_paths())) for folder in others)
    if beside:
        notes.append(f"left out {beside} samples that lie beside the folders of the splits")
    return {"train": splits["train"]} | splits


def _paths_by_class(
    folder: Folder, layout: FolderLayout, notes: list[str]
) -> dict[str | None, list[Path]]:
    """Return sorted files by sorted class, or under None if the folder holds them itself.

    Args:
        folder: the folder of a split.
        layout: whether the sub-folders are splits or classes.
        notes: receives a note about folders without samples.

    Raises:
        DataError: files lie beside class folders, or the folders look like another layout.
    """
    classes = folder.nonempty_subfolders()
    if folder.files and classes:
        raise DataError(
            f"{folder.files[0]}: lies beside class folders ({_format_names(classes)}); move it "
            "into one of them, or elsewhere"
        )
    if folder.files:
        return {None: folder.files}
    if layout == "auto":
        _check_depth(folder, classes)
    if empty := [child for child in folder.subfolders if child not in classes]:
        notes.append(f"left out {len(empty)} folders without samples: {_format_names(empty)}")
    found: dict[str, list[Path]] = {}
    for child in classes:
        found.setdefault(class_name(child.path.name), []).extend(child.sample_paths())
    return {name: sorted(found[name]) for name in sorted(found)}


def _check_depth(folder: Folder, classes: list[Folder]) -> None:
    """Check that class folders do not look like another layout one level down.

    Raises:
        DataError: the only class holds only folders, or a class holds splits.
    """
    for child in classes:
        inner = [
            each
            for each in child.nonempty_subfolders()
            if canonical_split(each.path.name) is not None
        ]
        if inner:
            raise DataError(
                f"{inner[0].path}: is named as a split and lies in {child.path}, which would be a "
                f"class; pass {child.path}, or set data.folder_layout to classes"
            )
    if len(classes) == 1 and not classes[0].files and len(classes[0].nonempty_subfolders()) > 1:
        raise DataError(
            f"{folder.path}: {_format_names(classes)} would be the only class, and holds "
            f"{_format_names(classes[0].nonempty_subfolders())}; pass {classes[0].path} if those "
            "are the classes, or set data.folder_layout to classes"
        )


def _check_classes(paths_of: dict[str | None, list[Path]], classes: list[str], train: Path) -> None:
    """Check that the training split has every class of another split.

    Raises:
        DataError: a class is unknown; names its first file.
    """
    for name, paths in paths_of.items():
        if name is not None and name not in classes:
            raise DataError(
                f"{paths[0]}: its class is not one of {train} "
                f"({', '.join(classes) or 'no class folders'}); use the same class folders in "
                "every split"
            )


def class_name(name: str) -> str:
    """Return a folder's name as text, with composed accents (NFC) and invalid bytes escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def _format_names(folders: Iterable[Folder]) -> str:
    """Return the folders' names in words, at most eight of them."""
    names = [folder.path.name for folder in folders]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _modality(paths: Iterable[Path]) -> Modality:
    """Return whether the samples are audio or images.

    Raises:
        DataError: there are both; names the first of each.
    """
    first: dict[Modality, Path] = {}
    for path in paths:
        first.setdefault(
            "audio" if path.suffix.lower() in READABLE_AUDIO_SUFFIXES else "image", path
        )
    if len(first) > 1:
        raise DataError(
            f"{first['audio']}: is a sound, and {first['image']} an image; keep them in different "
            "folders"
        )
    return next(iter(first))


_SYSTEM_NAMES = (
    ".ds_store .localized .directory .git .cache .thumbnails .trash .trashes .spotlight-v100 "
    ".fseventsd .ipynb_checkpoints __macosx @eadir thumbs.db ehthumbs.db desktop.ini "
    "$recycle.bin lost+found"
)
"""Names of files that operating systems and tools leave in folders, in lower case."""
_MAX_DEPTH = 32
"""Most levels of nested folders."""


@dataclass
class Folder:
    """A folder and its sub-folders, in the order of their names."""

    path: Path
    files: list[Path] = field(default_factory=list)
    """Samples directly in the folder."""
    subfolders: list[Folder] = field(default_factory=list)
    """Sub-folders that are not hidden."""

    def sample_paths(self) -> Iterator[Path]:
        """Yield the samples in the folder and below it."""
        yield from self.files
        for folder in self.subfolders:
            yield from folder.sample_paths()

    def nonempty_subfolders(self) -> list[Folder]:
        """Return the sub-folders with samples in or below them."""
        return [folder for folder in self.subfolders if any(folder.sample_paths())]


def scan_folder(path: Path, skipped: Counter[str]) -> Folder:
    """Find the samples below a folder, following links.

    Args:
        path: the folder.
        skipped: counts, by suffix, the files that are neither samples nor system files.

    Raises:
        DataError: a folder cannot be listed, or a link leads nowhere or back.
    """
    return _scan(path, skipped, ())


def _scan(path: Path, skipped: Counter[str], ancestors: tuple[tuple[int, int], ...]) -> Folder:
    """Find the samples below a folder whose ancestors are known by device and inode."""
    found = Folder(path)
    try:
        about = path.stat()
        with os.scandir(path) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be listed ({error.strerror}); change its permissions, or move it "
            "elsewhere"
        ) from error
    here = (about.st_dev, about.st_ino)
    if here in ancestors and about.st_ino:
        raise DataError(f"{path}: is a link back to a folder above it; move the link elsewhere")
    if len(ancestors) > _MAX_DEPTH:
        raise DataError(f"{path}: lies more than {_MAX_DEPTH} folders deep; pass a folder below")
    for entry in entries:
        if is_system_file(entry.name):
            continue
        child = path / entry.name
        suffix = child.suffix.lower()
        hidden = entry.name.startswith(".")
        kind = _entry_type(entry)
        if kind == "folder" and not hidden:
            found.subfolders.append(_scan(child, skipped, (*ancestors, here)))
        elif hidden and (is_sample(child) or kind == "folder"):
            skipped["hidden"] += 1
        elif kind == "nothing" and not suffix:  # it may stand for a whole class
            raise DataError(
                f"{child}: is a link to {child.readlink()}, which is not there; restore that, or "
                "move the link elsewhere"
            )
        # A broken link to a file is reported like any sample that does not decode.
        elif is_sample(child) and kind in ("nothing", "file"):
            found.files.append(child)
        elif not hidden and entry.name not in METADATA_NAMES:
            skipped[suffix or "no suffix"] += 1
    return found


def _entry_type(entry: os.DirEntry[str]) -> Literal["file", "folder", "nothing", "other"]:
    """Return the type of a directory entry or of its link target, mostly from cached information.

    Raises:
        DataError: the entry cannot be accessed.
    """
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        entry.stat()
    except FileNotFoundError:
        return "nothing"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "nothing"
        raise DataError(
            f"{entry.path}: cannot be looked at ({error.strerror}); change its permissions, or "
            "move it elsewhere"
        ) from error
    return "other"


def is_sample(path: Path) -> bool:
    """Return whether a file has the suffix of an image or audio file."""
    suffix = path.suffix.lower()
    return suffix in READABLE_IMAGE_SUFFIXES or suffix in READABLE_AUDIO_SUFFIXES


def is_system_file(name: str) -> bool:
    """Return whether an operating system or a tool leaves files of this name in folders."""
    return name.lower() in _SYSTEM_NAMES.split() or name.startswith(
        ("._", "~$", ".nfs", ".fuse_hidden")
    )


def format_counts(skipped: Counter[str]) -> str:
    """Return the counts in words: `3 x .txt, 1 x .csv`."""
    return ", ".join(f"{count} x {suffix}" for suffix, count in skipped.most_common(12))
