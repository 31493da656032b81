"""Find how much memory this process may take, and refuse what cannot fit before work begins.

Linux grants memory that is not there, and kills the process when it writes to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anytime_ar.errors import InputError
from anytime_ar.runtime.threads import cgroup_folders, read_lines

_LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
"""Files with the limit of a control group in bytes, of version 2 and of version 1."""


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that processes of this machine or container can have; None: unknown.

    Args:
        root: folder of the file system, for tests.
    """
    return min(_limits(root), default=None)


def _limits(root: Path) -> Iterator[int]:
    """Yield the free memory of the machine, and the limit of each control group."""
    pairs = (line.split(":", 1) for line in read_lines(root / "proc/meminfo") if ":" in line)
    kilobytes = {
        name: int(value.split()[0]) for name, value in pairs if value.strip()[:1].isdigit()
    }
    if "MemAvailable" in kilobytes:
        yield 1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))
    for folder in cgroup_folders(root, "memory"):
        for file in _LIMIT_FILES:
            limit = " ".join(read_lines(folder / file))
            if limit.isdecimal():  # "max" is no limit
                yield int(limit)


def check_memory(what: str, needed: int) -> None:
    """Check that something fits into memory.

    Args:
        what: the setting that decides the size, with its value.
        needed: the least number of bytes that it takes.

    Raises:
        InputError: there is less memory.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"{what} takes at least {needed / 2**30:,.1f} GiB of memory, and "
            f"{available / 2**30:,.1f} GiB are available; lower it"
        )
