"""What other processes take, as Linux tells."""

from __future__ import annotations

from pathlib import Path


def memory_mb(pid: int) -> float:
    """Resident memory."""
    return int(_status(pid, "VmRSS:")) / 1024


def thread_count(pid: int) -> int:
    """How many."""
    return int(_status(pid, "Threads:"))


def descendants(pid: int) -> list[int]:
    """The processes that it started, and those that they did."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(_status(int(folder.name), "PPid:"))
        except OSError:  # it has just ended
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def command_line(pid: int) -> str:
    """What it calls itself; empty if it has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _status(pid: int, field: str) -> str:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return status.split(field)[1].split()[0]
