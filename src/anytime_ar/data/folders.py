"""Folders of images or sounds with a sub-folder per class."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from anytime_ar.data.config import FolderLayout
from anytime_ar.data.file_tree import Folder, format_counts, scan_folder
from anytime_ar.data.rows import DataSource, InMemoryRows, Modality, Row, SplitRows
from anytime_ar.data.split_names import canonical_split
from anytime_ar.data.suffixes import READABLE_AUDIO_SUFFIXES
from anytime_ar.errors import DataError


def folder_source(root: Path, layout: FolderLayout) -> DataSource:
    """Read `root/class/*`, `root/{train,test,...}/class/*`, or either without class folders.

    Folders inside a class belong to it. A split other than `train` may do without class folders:
    its samples have no labels.

    Args:
        layout: whether the sub-folders are splits or classes; `auto` decides by their names.

    Raises:
        DataError: there is neither image nor sound, or there are both; files lie beside class
            folders; the splits differ in their classes; or splits and classes cannot be told
            apart.
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
    rows: dict[str, SplitRows] = {}
    for split, paths_of in by_class.items():
        _check_classes(paths_of, classes, splits["train"].path)
        pairs = [(path, name) for name, paths in paths_of.items() for path in paths]
        if not pairs:
            raise DataError(
                f"{splits[split].path}: no samples in this split; add some, or move it elsewhere"
            )
        rows[split] = InMemoryRows(
            [
                Row(i, path, None if name is None else classes.index(name), str(path))
                for i, (path, name) in enumerate(pairs)
            ]
        )
    if left_out:
        notes.append(
            f"left out {left_out.total()} files that are no samples: {format_counts(left_out)}"
        )
    return DataSource(
        rows,
        tuple(classes) or None,
        _modality(path for folder in splits.values() for path in folder.sample_paths()),
        tuple(notes),
    )


def _split_folders(tree: Folder, layout: FolderLayout, notes: list[str]) -> dict[str, Folder]:
    """The folder of each split; `train` is the tree itself where it has none."""
    named = [folder for folder in tree.subfolders if canonical_split(folder.path.name) is not None]
    if layout == "classes" or (
        layout == "auto" and not any(f in named for f in tree.nonempty_subfolders())
    ):
        return {"train": tree}
    others = [folder for folder in tree.nonempty_subfolders() if folder not in named]
    if others and layout == "auto":
        raise DataError(
            f"{tree.path}: {_format_names(named)} may be splits or classes, beside {_format_names(others)}; set "
            "data.layout to classes if all are classes, or to splits to read the first alone"
        )
    splits: dict[str, Folder] = {}
    for folder in named:
        split = canonical_split(folder.path.name)
        assert split is not None
        if split in splits:
            raise DataError(
                f"{tree.path}: {_format_names([splits[split], folder])} are both the {split} split; join "
                "them, or move one elsewhere"
            )
        splits[split] = folder
    if "train" not in splits:
        raise DataError(
            f"{tree.path}: no folder called train, only {_format_names(named) or 'others'}; rename one, "
            "or set data.layout to classes if they are classes"
        )
    beside = len(tree.files) + sum(len(list(folder.sample_paths())) for folder in others)
    if beside:
        notes.append(f"left out {beside} samples that lie beside the folders of the splits")
    return {"train": splits["train"]} | splits


def _paths_by_class(
    folder: Folder, layout: FolderLayout, notes: list[str]
) -> dict[str | None, list[Path]]:
    """Sorted files by sorted class, or under None when the folder holds them itself."""
    classes = folder.nonempty_subfolders()
    if folder.files and classes:
        raise DataError(
            f"{folder.files[0]}: lies beside class folders ({_format_names(classes)}); move it into one "
            "of them, or elsewhere"
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
    """Refuse folders that look like another layout one level down.

    Raises:
        DataError: the only class holds folders alone, or a class holds splits.
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
                f"class; pass {child.path}, or set data.layout to classes"
            )
    if len(classes) == 1 and not classes[0].files and len(classes[0].nonempty_subfolders()) > 1:
        raise DataError(
            f"{folder.path}: {_format_names(classes)} would be the only class, and holds "
            f"{_format_names(classes[0].nonempty_subfolders())}; pass {classes[0].path} if those are the classes, or "
            "set data.layout to classes"
        )


def _check_classes(paths_of: dict[str | None, list[Path]], classes: list[str], train: Path) -> None:
    """Refuse classes that training does not know."""
    for name, paths in paths_of.items():
        if name is not None and name not in classes:
            raise DataError(
                f"{paths[0]}: its class is not one of {train} "
                f"({', '.join(classes) or 'no class folders'}); use the same class folders in "
                "every split"
            )


def class_name(name: str) -> str:
    """One spelling for all of the same name: accents composed, bytes that are no text escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def _format_names(folders: Iterable[Folder]) -> str:
    names = [folder.path.name for folder in folders]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _modality(paths: Iterable[Path]) -> Modality:
    first: dict[Modality, Path] = {}
    for path in paths:
        first.setdefault(
            "sound" if path.suffix.lower() in READABLE_AUDIO_SUFFIXES else "image", path
        )
    if len(first) > 1:
        raise DataError(
            f"{first['sound']}: is a sound, and {first['image']} an image; keep them in different "
            "folders"
        )
    return next(iter(first))
