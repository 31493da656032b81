"""Storage of bulk jobs on any file system that fsspec supports, with atomic writes.

On local disks, a rename makes a file visible once it is complete. Object stores do so themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from anytime_ar.errors import AnytimeError, InputError, MissingExtraError
from anytime_ar.runtime.files import remove_temporary_files, write_bytes

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class BulkStorage:
    """A folder on a local or remote file system.

    Args:
        url: Path or URL, such as `runs/many` or `s3://bucket/many`. A value without a scheme is a
            literal path.

    Raises:
        MissingExtraError: The file system needs a package that is not installed.
        InputError: There is no such file system, or it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        """Open the file system of the folder."""
        self.url = url
        """Path or URL of the folder, as the caller gave it."""
        try:
            self._fs: Any
            # fsspec would split a path at "::", and expand "~".
            if _SCHEME.match(url):
                self._fs, self._root = fsspec.core.url_to_fs(url)
            else:
                self._fs, self._root = LocalFileSystem(), str(Path(url).absolute())
        except ImportError as error:
            raise MissingExtraError(f"{url}: {error}") from error
        except Exception as error:  # each file system raises errors of its own
            raise InputError(f"{url}: {_first_line(error)}; pass a folder, or a URL") from error
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self.absolute_url: str = self._root if self._is_local else url
        """Absolute path or URL, valid in any working directory."""

    def prepare(self, name: str = "") -> None:
        """Create a subfolder, and remove the temporary files that killed writers left there.

        Args:
            name: Name of the subfolder; empty: the folder itself.

        Raises:
            InputError: The folder cannot be created or written.
        """
        with self._reported_errors("write"):
            self._fs.makedirs(self._path(name), exist_ok=True)
            if self._is_local:
                remove_temporary_files(self._path(name))

    def sizes(self, name: str = "") -> dict[str, int]:
        """Return the sizes of the files in a subfolder.

        Args:
            name: Name of the subfolder; empty: the folder itself.

        Returns:
            Size in bytes by file name, 0 for folders; empty if there is no such subfolder.

        Raises:
            InputError: The folder cannot be read.
        """
        with self._reported_errors("read"):
            self._fs.invalidate_cache()
            try:
                entries = self._fs.ls(self._path(name), detail=True)
            except FileNotFoundError:
                return {}
        here = self._path(name)  # excluded below: object stores may list the folder itself
        return {
            _basename(entry["name"]): entry["size"] or 0
            for entry in entries
            if entry["name"].strip("/") != here.strip("/")
        }

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None: there is no such file.

        Raises:
            InputError: The file cannot be read.
        """
        with self._reported_errors("read"):
            try:
                content: bytes = self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None
        return content

    def read_all(self, name: str) -> dict[str, bytes]:
        """Return the contents of all files in a subfolder, by file name.

        Raises:
            InputError: A file cannot be read.
        """
        paths = [self._path(f"{name}/{file}") for file in self.sizes(name)]
        with self._reported_errors("read"):
            # Not `cat`, which interprets * and [ in a path as a pattern.
            contents: list[bytes] = self._fs.cat_ranges(paths, None, None, on_error="raise")
        return {_basename(path): content for path, content in zip(paths, contents, strict=True)}

    def write(self, name: str, content: bytes) -> None:
        """Create or replace a file atomically.

        Raises:
            InputError: The file cannot be written.
        """
        with self._reported_errors("write"):
            if self._is_local:
                write_bytes(self._path(name), content)
            else:
                self._fs.pipe_file(self._path(name), content)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists.

        Raises:
            InputError: The file cannot be removed.
        """
        with self._reported_errors("write"):
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def _path(self, name: str) -> str:
        """Return the path of a name in the folder, on its file system."""
        return f"{self._root.rstrip('/')}/{name}".rstrip("/") or "/"

    @contextmanager
    def _reported_errors(self, operation: str) -> Iterator[None]:
        """Raise errors of the file system as `InputError`."""
        try:
            yield
        except AnytimeError:
            raise
        except Exception as error:  # each file system raises errors of its own
            raise InputError(
                f"cannot {operation} {self.url}: {_first_line(error)}; choose a folder that can be "
                "read and written to"
            ) from error


def _basename(path: str) -> str:
    """Return the last part of a path."""
    return path.rstrip("/").rpartition("/")[2]


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return message.strip().splitlines()[0] if message.strip() else type(error).__name__
