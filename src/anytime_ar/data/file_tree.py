"""The pictures and sounds below a folder: each is found, or counted as left out."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from anytime_ar.data.suffixes import READABLE_AUDIO_SUFFIXES, READABLE_IMAGE_SUFFIXES
from anytime_ar.errors import DataError

_SYSTEM_NAMES = (
    ".ds_store .localized .directory .git .cache .thumbnails .trash .trashes .spotlight-v100 "
    ".fseventsd .ipynb_checkpoints __macosx @eadir thumbs.db ehthumbs.db desktop.ini "
    "$recycle.bin lost+found"
)
"""What operating systems and tools leave in folders, in lower case."""
_MAX_DEPTH = 32
"""Folders in folders."""


@dataclass
class Folder:
    """A folder and all below it, in the order of names."""

    path: Path
    files: list[Path] = field(default_factory=list)
    """Samples that lie in it."""
    subfolders: list[Folder] = field(default_factory=list)

    def sample_paths(self) -> Iterator[Path]:
        """Samples in it and below."""
        yield from self.files
        for folder in self.subfolders:
            yield from folder.sample_paths()

    def nonempty_subfolders(self) -> list[Folder]:
        """Sub-folders with samples in or below them."""
        return [folder for folder in self.subfolders if any(folder.sample_paths())]


def scan_folder(path: Path, skipped: Counter[str]) -> Folder:
    """Find the samples below a folder; links are followed.

    Args:
        skipped: counts what is neither a sample nor a file of the system, by suffix.

    Raises:
        DataError: a folder cannot be listed, or a link leads nowhere or back.
    """
    return _scan(path, skipped, ())


def _scan(path: Path, skipped: Counter[str], ancestors: tuple[tuple[int, int], ...]) -> Folder:
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
        if _is_system_file(entry.name):
            continue
        child = path / entry.name
        suffix = child.suffix.lower()
        is_sample = suffix in READABLE_IMAGE_SUFFIXES or suffix in READABLE_AUDIO_SUFFIXES
        hidden = entry.name.startswith(".")
        kind = _entry_type(entry)
        if kind == "folder" and not hidden:
            found.subfolders.append(_scan(child, skipped, (*ancestors, here)))
        elif hidden and (is_sample or kind == "folder"):
            skipped["hidden"] += 1
        elif kind == "nothing" and not suffix:  # perhaps a whole class
            raise DataError(
                f"{child}: is a link to {child.readlink()}, which is not there; restore that, or "
                "move the link elsewhere"
            )
        # A link to nowhere is told as any sample that does not decode.
        elif is_sample and kind in ("nothing", "file"):
            found.files.append(child)
        elif not hidden:
            skipped[suffix or "no suffix"] += 1
    return found


def _entry_type(entry: os.DirEntry[str]) -> Literal["file", "folder", "nothing", "other"]:
    """What an entry is or leads to; most are told without another look at the disk."""
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


def _is_system_file(name: str) -> bool:
    return name.lower() in _SYSTEM_NAMES.split() or name.startswith(
        ("._", "~$", ".nfs", ".fuse_hidden")
    )


def format_counts(skipped: Counter[str]) -> str:
    """The counts in words: `3 x .txt, 1 x .csv`."""
    return ", ".join(f"{count} x {suffix}" for suffix, count in skipped.most_common(12))
