"""Keep entries by key in one JSON file that processes, and versions of this package, share.

For what can be measured again: damage costs a measurement, never an error. Every entry is read by
itself, and an update keeps those that it does not know, which may belong to another version.
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

_MAX_BYTES = 4 * 2**20
"""Bytes that a file may have: larger ones are not read, and the oldest entries make room."""
_LOCK_TIMEOUT_S = 2.0
"""How long to wait for the lock, which is held for milliseconds unless its holder was stopped."""


class JsonStore(Generic[EntryT]):
    """Entries by key in a JSON file.

    A file that is too large, damaged, unreadable or not regular counts as empty, and is replaced
    where that is possible.

    Args:
        path: the file; its folder is created when it is needed.
        adapter: reads an entry and writes it. Entries it refuses count as missing, and so do those
            with numbers that are not finite.
    """

    def __init__(self, path: Path, adapter: TypeAdapter[EntryT]) -> None:
        self.path, self._adapter = path, adapter

    def get(self, key: str) -> EntryT | None:
        """Return the entry under a key, None if there is none that can be used."""
        return self._parse(self._read().get(key))

    def update(self, key: str, change: Callable[[EntryT | None], EntryT]) -> EntryT:
        """Put what `change` makes of the entry under a key in its place, and return it.

        No other process updates the file meanwhile, where the system has locks.

        Raises:
            InputError: the new entry cannot be written. What `change` returns unchanged is not
                written, so a read-only file will do for it.
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
        try:
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
                return {}  # a pipe would never end
            entries = json.loads(self.path.read_bytes())
        except (OSError, ValueError, RecursionError):  # nothing that cannot be measured again
            return {}
        return entries if isinstance(entries, dict) else {}

    def _parse(self, value: object) -> EntryT | None:
        try:
            entry = self._adapter.validate_python(value)
            _format_entry("", self._adapter.dump_python(entry))  # is finite
        except (ValueError, RecursionError):
            return None
        return entry

    def _write(self, others: dict[str, Any], last: str) -> None:
        lines = [last]
        room = _MAX_BYTES - len(last) - 4
        for key, value in reversed(others.items()):  # the latest first
            try:
                line = _format_entry(key, value)
            except (ValueError, RecursionError):  # no JSON: not finite, or nested too deep
                continue
            room -= len(line) + 2
            if room < 0:
                break
            lines.append(line)
        write_bytes(self.path, ("{\n" + ",\n".join(reversed(lines)) + "\n}\n").encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the file; without it where there are no locks, or it is not given up."""
        # Not the file itself, which every update replaces.
        place = self.path.with_name(f".{self.path.name}.lock")
        try:
            import fcntl

            handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
        except (ImportError, OSError):  # Windows; a read-only folder, whose file may still do
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
                except OSError:  # a file system that has no locks
                    break
            yield
        finally:
            os.close(handle)


def _format_entry(key: str, value: object) -> str:
    """An entry as JSON in ASCII, so that any text of a file that was read can be written again.

    Raises:
        ValueError: a number is not finite.
    """
    return f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}"
