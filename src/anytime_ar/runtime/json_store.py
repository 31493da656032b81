"""Store entries by key in one JSON file, shared by processes and by versions of this package.

The store is for values that can be measured again: damage costs a measurement and never raises.
Every entry is parsed by itself. An update preserves unknown entries, which may belong to another
version.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from anytime_ar.errors import InputError
from anytime_ar.runtime.files import write_bytes

EntryT = TypeVar("EntryT")
"""Type of the stored entries."""

_MAX_BYTES = 4 * 2**20
"""Largest size of the file, in bytes: larger files are not read, and the oldest entries are
dropped."""
_LOCK_TIMEOUT_S = 2.0
"""Seconds to wait for the lock. Its owner holds it for milliseconds, unless it was stopped."""


class JsonStore(Generic[EntryT]):
    """A store of entries by key in a JSON file.

    A file that is too large, damaged, unreadable or not regular counts as empty, and is replaced if
    possible.

    Args:
        path: the file; its folder is created when needed.
        adapter: parses and serializes entries. Entries that it refuses count as missing, as do
            those with numbers that are not finite.
    """

    def __init__(self, path: Path, adapter: TypeAdapter[EntryT]) -> None:
        """Store path and adapter; nothing is read yet."""
        self.path, self._adapter = path, adapter

    def get(self, key: str) -> EntryT | None:
        """Return the entry of a key; None if there is no valid one."""
        return self._parse(self._read().get(key))

    def update(self, key: str, change: Callable[[EntryT | None], EntryT]) -> EntryT:
        """Replace the entry of a key by what `change` returns for it, and return the new entry.

        Other processes cannot update the file meanwhile, if the system has locks. An unchanged
        entry is not written, so a read-only file suffices for it.

        Args:
            key: key of the entry.
            change: receives the old entry, or None, and returns the new one.

        Raises:
            InputError: the new entry cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                entries = self._read()
                found = self._parse(entries.pop(key, None))
                entry = change(found)
                if entry != found:
                    self._write(entries, _format_entry(key, self._adapter.dump_python(entry)))
                return entry
        except OSError as error:
            raise InputError(
                f"cannot write {self.path}: {error.strerror}; choose a folder that is writable"
            ) from error

    def _read(self) -> dict[str, Any]:
        """Return all entries of the file, unparsed; none if the file is not usable."""
        try:
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
                return {}  # reading a pipe would block
            entries = json.loads(self.path.read_bytes())
        except (OSError, ValueError, RecursionError):  # its values can be measured again
            return {}
        return entries if isinstance(entries, dict) else {}

    def _parse(self, value: object) -> EntryT | None:
        """Return a stored value as an entry; None if it is missing or invalid."""
        try:
            entry = self._adapter.validate_python(value)
            _format_entry("", self._adapter.dump_python(entry))  # raises if a number is not finite
        except (ValueError, RecursionError):
            return None
        return entry

    def _write(self, others: dict[str, Any], last: str) -> None:
        """Write the file with the changed entry last, without the oldest beyond `_MAX_BYTES`.

        Args:
            others: the other entries, oldest first.
            last: the changed entry, as `_format_entry` returns it.
        """
        lines = [last]
        room = _MAX_BYTES - len(last) - 4
        for key, value in reversed(others.items()):  # latest first
            try:
                line = _format_entry(key, value)
            except (ValueError, RecursionError):  # not finite, or nested too deeply for JSON
                continue
            room -= len(line) + 2
            if room < 0:
                break
            lines.append(line)
        write_bytes(self.path, ("{\n" + ",\n".join(reversed(lines)) + "\n}\n").encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the file's lock in the block, or go on without it if it cannot be had in time."""
        # A file of its own, because every update replaces the JSON file.
        lock_path = self.path.with_name(f".{self.path.name}.lock")
        try:
            import fcntl

            handle = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
        except (ImportError, OSError):  # Windows, or a read-only folder
            yield
            return
        try:
            end = time.monotonic() + _LOCK_TIMEOUT_S
            while time.monotonic() < end:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.005)
                except OSError:  # a file system without locks
                    break
            yield
        finally:
            os.close(handle)


def _format_entry(key: str, value: object) -> str:
    """Return an entry as ASCII JSON, so that any text that was read can be written again.

    Raises:
        ValueError: a number is not finite.
    """
    return f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}"
