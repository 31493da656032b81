"""A folder on any file system that fsspec knows, in which files appear complete or not at all.

On a local disk that takes a rename; object stores show a file once all of it has arrived.
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
    """A folder by its path or URL, as `runs/many` or `s3://bucket/many`. What has no scheme is a
    path, to the letter.

    Raises:
        MissingExtraError: its file system needs a package that is not installed.
        InputError: there is no such file system, or it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._fs: Any
            # fsspec would split a path at "::", and expand "~".
            if _SCHEME.match(url):
                self._fs, self._root = fsspec.core.url_to_fs(url)
            else:
                self._fs, self._root = LocalFileSystem(), str(Path(url).absolute())
        except ImportError as error:
            raise MissingExtraError(f"{url}: {error}") from error
        except Exception as error:  # each file system has its own
            raise InputError(f"{url}: {_first_line(error)}; pass a folder, or a URL") from error
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self.absolute_url: str = self._root if self._is_local else url
        """The same from any working directory."""

    def prepare(self, name: str = "") -> None:
        """Create a folder in it or itself, and remove what killed writers left there.

        Raises:
            InputError: that cannot be done.
        """
        with self._reported_errors("write"):
            self._fs.makedirs(self._path(name), exist_ok=True)
            if self._is_local:
                remove_temporary_files(self._path(name))

    def sizes(self, name: str = "") -> dict[str, int]:
        """Bytes of everything in a folder by its name, of folders 0; empty if there is none.

        Raises:
            InputError: it cannot be read.
        """
        with self._reported_errors("read"):
            self._fs.invalidate_cache()
            try:
                entries = self._fs.ls(self._path(name), detail=True)
            except FileNotFoundError:
                return {}
        here = self._path(name)  # object stores may list the folder itself
        return {
            _basename(entry["name"]): entry["size"] or 0
            for entry in entries
            if entry["name"].strip("/") != here.strip("/")
        }

    def read(self, name: str) -> bytes | None:
        """What a file holds; None if there is none.

        Raises:
            InputError: it cannot be read.
        """
        with self._reported_errors("read"):
            try:
                content: bytes = self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None
        return content

    def read_all(self, name: str) -> dict[str, bytes]:
        """What all files of a folder hold, by name.

        Raises:
            InputError: one cannot be read.
        """
        paths = [self._path(f"{name}/{file}") for file in self.sizes(name)]
        with self._reported_errors("read"):
            # Not `cat`, which takes * and [ in a path for a pattern.
            contents: list[bytes] = self._fs.cat_ranges(paths, None, None, on_error="raise")
        return {_basename(path): content for path, content in zip(paths, contents, strict=True)}

    def write(self, name: str, content: bytes) -> None:
        """Create or replace a file.

        Raises:
            InputError: it cannot be written.
        """
        with self._reported_errors("write"):
            if self._is_local:
                write_bytes(self._path(name), content)
            else:
                self._fs.pipe_file(self._path(name), content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            InputError: that cannot be done.
        """
        with self._reported_errors("write"):
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}".rstrip("/") or "/"

    @contextmanager
    def _reported_errors(self, operation: str) -> Iterator[None]:
        try:
            yield
        except AnytimeError:
            raise
        except Exception as error:  # each file system has its own
            raise InputError(
                f"cannot {operation} {self.url}: {_first_line(error)}; choose a folder that can be read and "
                "written to"
            ) from error


def _basename(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _first_line(error: Exception) -> str:
    """What another library says, in one line."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return told.strip().splitlines()[0] if told.strip() else type(error).__name__
