"""Read the resources of other processes from Linux's /proc."""

from __future__ import annotations

from pathlib import Path


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process, in MB."""
    return int(_status(pid, "VmRSS:")) / 1024


def thread_count(pid: int) -> int:
    """Return the number of threads of a process."""
    return int(_status(pid, "Threads:"))


def descendants(pid: int) -> list[int]:
    """Return the ids of all child processes of a process, and of their children."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(_status(int(folder.name), "PPid:"))
        except OSError:  # the process has just ended
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def command_line(pid: int) -> str:
    """Return the command line of a process; empty if it has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _status(pid: int, field: str) -> str:
    """Return the first word of a field of a process's status file."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return status.split(field)[1].split()[0]
