"""Writing files so that a reader sees the old file or the new one, never half of either.

The bytes go to a temporary file in the *same* folder (a rename across file systems is a copy, and
a copy can be cut), are flushed to the disk, and take the name of the target in one step. A process
that is killed leaves at most a temporary file, which `remove_temporary_files` removes.
"""

from __future__ import annotations

import atexit
import codecs
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from anytime_ar.errors import InputError

_TEMPORARY = re.compile(r"\.anytime-[0-9a-f]{16}\.tmp")


def cache_folder() -> Path:
    """Return the folder for what can be made again: `$XDG_CACHE_HOME/anytime-ar`, by default under
    ~/.cache. A value that is relative, or a literal `~`, is ignored, as the XDG rules ask for: it
    would name another folder in every working folder. Where this user has no home folder, it is
    that of the process; where that cannot be had, one in which nothing can be written."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "anytime-ar"
    try:
        home = Path.home()
    except RuntimeError:  # neither $HOME nor an entry in the list of users
        home = Path()
    if home.is_absolute():
        return home / ".cache" / "anytime-ar"
    try:
        return process_temporary_folder()
    except (
        OSError
    ):  # nor one for temporary files: no file can be in this one, and all is made again
        return Path(os.devnull) / "anytime-ar"


@cache
def process_temporary_folder() -> Path:
    """Return a new folder, which is removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="anytime-ar-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def read_text(path: Path | str) -> str:
    """Return the text of a file that somebody wrote with an editor or by redirection: UTF-8, or the
    UTF-16 of Windows PowerShell.

    Raises:
        InputError: it is missing, cannot be read, or is in another encoding.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; pass a text file") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if wide else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: is not UTF-8 text (byte {content[error.start]:#04x}); save it "
            "as UTF-8"
        ) from error


def write_atomically(path: Path | str, write: Callable[[BinaryIO], object]) -> None:
    """Create or replace the file `path` with what `write` puts into the handle it is given.

    Args:
        path: the target; its folder must exist.
        write: gets a binary handle, open for writing and seekable; what it returns is ignored. It
            must leave the handle open.

    Raises:
        InputError: `path` is a folder, its folder is missing or cannot be written to, or the disk
            is full.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder; give the path of a file")
    temporary = target.with_name(f".anytime-{secrets.token_hex(8)}.tmp")
    try:
        handle = temporary.open("xb")
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror}; choose a folder that exists and is writable"
        ) from error
    try:
        with handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(target)
    except BaseException as error:  # also an interrupt from the keyboard
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of `write`
            raise InputError(
                f"cannot write {target}: {error.strerror}; what was there is as it was; make room, "
                "or choose another folder"
            ) from error
        raise
    _sync_folder(target.parent)


def check_output_path(path: Path | str, *, is_folder: bool = False) -> None:
    """Refuse a path that cannot be written, before there is work to lose.

    Args:
        path: of a file, whose folder must exist; or of a folder, which is created later with those
            above it.
        is_folder: which of the two.

    Raises:
        InputError: it exists as the other of the two, or nothing can be written there.
    """
    target = Path(path)
    here = target if is_folder else target.parent
    if is_folder:
        while not here.exists() and here != here.parent:
            here = here.parent
        if not here.is_dir():
            raise InputError(f"cannot write into {target}: {here} is a file; choose another folder")
    elif target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder; give the path of a file")
    elif not here.is_dir():
        raise InputError(f"cannot write {target}: there is no folder {here}; create it first")
    probe = here / f".anytime-{secrets.token_hex(8)}.tmp"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror}; choose a folder that is writable"
        ) from error


def is_system_file(name: str) -> bool:
    """Return whether a file system or a file manager puts files of this name anywhere: they belong
    to nobody's data."""
    return name in {".DS_Store", "Thumbs.db", "desktop.ini", ".directory"} or name.startswith("._")


def list_files(folder: Path) -> list[Path]:
    """Return what is in a folder but system files, sorted."""
    return sorted(path for path in folder.iterdir() if not is_system_file(path.name))


def write_bytes(path: Path | str, content: bytes) -> None:
    """Create or replace the file `path`; see `write_atomically`."""
    write_atomically(path, lambda file: file.write(content))


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` atomically as indented UTF-8 JSON, keys in the order given.

    Raises:
        InputError: a number is NaN or infinite, which JSON cannot hold (the message gives its
            place), or `path` cannot be written.
        TypeError: `value` contains something else that JSON cannot hold.
    """
    place = _find_non_finite(value)
    if place is not None:
        raise InputError(
            f"cannot write {path}: {place}, which JSON cannot hold; leave it out or null"
        )
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def remove_temporary_files(folder: Path | str) -> list[Path]:
    """Remove what killed writers left directly in `folder`, and return the removed paths.

    Call it where this process is the folder's only writer: at the start of a run, say.
    """
    orphans = sorted(p for p in Path(folder).iterdir() if _TEMPORARY.fullmatch(p.name))
    for orphan in orphans:
        orphan.unlink(missing_ok=True)
    return orphans


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut; only POSIX can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _find_non_finite(value: Any, path: str = "value") -> str | None:
    """`"value.points[2].mse is nan"` for the first number that is not finite, else None."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path} is {float(value)}"
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(f"{path}.{key}", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    return next((found for at, item in items if (found := _find_non_finite(item, at))), None)
