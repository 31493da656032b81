"""Write files atomically: a reader sees the old file or the new one, never half of either.

The bytes go to a temporary file in the *same* folder. A rename across file systems is a copy, and a
copy can be interrupted. The temporary file is flushed to disk, then renamed to the target in one
step. A process that is killed leaves at most a temporary file, which `remove_temporary_files`
removes.
"""

from __future__ import annotations

import atexit
import codecs
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from anytime_ar.errors import BundleError, InputError, NoRoomError

_TEMPORARY = re.compile(r"\.anytime-[0-9a-f]{16}\.tmp")


def cache_folder() -> Path:
    """Return the folder for cached files: `$XDG_CACHE_HOME/anytime-ar`, or `~/.cache/anytime-ar`.

    A relative `XDG_CACHE_HOME`, or one with a literal `~`, is ignored as the XDG specification
    requires: it would name a different folder in every working directory. If the user has no home
    folder, the process's temporary folder is used. If that cannot be created, the path is one where
    nothing can be written.
    """
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
    except OSError:  # no temporary folder either: cache nothing
        return Path(os.devnull) / "anytime-ar"


@cache
def process_temporary_folder() -> Path:
    """Return a new folder that is removed when this process exits."""
    folder = tempfile.mkdtemp(prefix="anytime-ar-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def user_temporary_folder() -> Path:
    """Return a temporary folder that later processes of this user find again.

    Others could put files in a folder of a known name, so it must belong to this user alone;
    otherwise the folder of this process is returned.

    Raises:
        OSError: no temporary folder can be created.
    """
    if not hasattr(os, "getuid"):  # on Windows, temporary folders belong to one user
        return Path(tempfile.gettempdir()) / "anytime-ar"
    folder = Path(tempfile.gettempdir()) / f"anytime-ar-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    private = status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) == 0o700
    return folder if stat.S_ISDIR(status.st_mode) and private else process_temporary_folder()


def read_text(path: Path | str) -> str:
    """Return the text of a file in UTF-8, or in the UTF-16 that Windows PowerShell writes.

    Args:
        path: the file to read.

    Raises:
        InputError: it is missing, not readable, or in another encoding.
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
    """Create or replace a file with what `write` writes to its handle.

    Args:
        path: the target; its folder must exist.
        write: receives a seekable binary handle, open for writing, which it must leave open. Its
            result is ignored.

    Raises:
        InputError: `path` is a folder, or its folder is missing or not writable.
        NoRoomError: the disk is full, or a quota or the largest size of a file is reached.
    """
    _check_names_file(path)
    target = Path(path)
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder; give the path of a file")
    temporary = target.with_name(f".anytime-{secrets.token_hex(8)}.tmp")
    try:
        handle = temporary.open("xb")
    except OSError as error:
        raise _error_type(error)(
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
            raise _error_type(error)(
                f"cannot write {target}: {error.strerror}; what was there is as it was; make room, "
                "or choose another folder"
            ) from error
        raise
    _sync_folder(target.parent)


def check_output_path(path: Path | str, *, is_folder: bool = False) -> None:
    """Check that a path can be written, before there is work to lose.

    Args:
        path: a file, whose folder must exist; or a folder, which is created later with its parents.
        is_folder: whether the path is a folder.

    Raises:
        InputError: it exists as the other of the two, or is not writable.
    """
    if not is_folder:
        _check_names_file(path)
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
        raise _error_type(error)(
            f"cannot write {target}: {error.strerror}; choose a folder that is writable"
        ) from error


def _check_names_file(path: Path | str) -> None:
    """Raise an error for a path that is empty or names a folder by a slash at its end."""
    text = os.fspath(path)
    if not text or text.endswith((os.sep, os.altsep or os.sep)):
        raise InputError(f"cannot write {text!r}: it names no file; give the path of a file")


def _error_type(error: OSError) -> type[InputError]:
    """Return the type of our error for an error of the system while writing."""
    full = errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)
    return NoRoomError if error.errno in full else InputError


def is_system_file(name: str) -> bool:
    """Return whether file systems or file managers create files of this name in any folder."""
    return name in {".DS_Store", "Thumbs.db", "desktop.ini", ".directory"} or name.startswith("._")


def list_files(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, sorted, without system files."""
    return sorted(path for path in folder.iterdir() if not is_system_file(path.name))


def write_bytes(path: Path | str, content: bytes) -> None:
    """Create or replace a file with these bytes; see `write_atomically`."""
    write_atomically(path, lambda file: file.write(content))


def write_json(path: Path | str, value: Any) -> None:
    """Write a value atomically as indented UTF-8 JSON, with keys in the given order.

    Args:
        path: the target; its folder must exist.
        value: the value to write.

    Raises:
        InputError: a number is NaN or infinite, which JSON cannot hold (the message names its
            position), or `path` is not writable.
        TypeError: `value` contains something else that JSON cannot hold.
    """
    position = _find_non_finite(value)
    if position is not None:
        raise InputError(
            f"cannot write {path}: {position}, which JSON cannot hold; leave it out or null"
        )
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return a value as the JSON that `write_json` writes."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Args:
        path: the file to read.

    Raises:
        BundleError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def remove_temporary_files(folder: Path | str) -> list[Path]:
    """Remove the temporary files of killed writers directly in a folder, and return their paths.

    Call this only where this process is the folder's only writer, such as at the start of a run.
    """
    orphans = sorted(p for p in Path(folder).iterdir() if _TEMPORARY.fullmatch(p.name))
    for orphan in orphans:
        orphan.unlink(missing_ok=True)
    return orphans


def _sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that the rename survives a power failure; POSIX only."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _find_non_finite(value: Any, path: str = "value") -> str | None:
    """Return `"value.points[2].mse is nan"` for the first number that is not finite, else None."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path} is {float(value)}"
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(f"{path}.{key}", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    return next((found for at, item in items if (found := _find_non_finite(item, at))), None)
