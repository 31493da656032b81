"""Other processes of this machine, as `ps` shows them."""

from __future__ import annotations

import subprocess


def descendants(pid: int) -> list[int]:
    """Ids of the children of a process, and of their children."""
    rows = [tuple(map(int, line.split())) for line in _ps("-e", "-o", "pid=,ppid=")]
    found = [pid]
    for one in found:
        found += [child for child, parent in rows if parent == one]
    return found[1:]


def command_line(pid: int) -> str:
    """How a process was called; empty if it has just ended."""
    return "".join(_ps("-ww", "-o", "args=", "-p", str(pid)))


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not asked for yet does not."""
    return "".join(_ps("-o", "stat=", "-p", str(pid))).strip()[:1] not in ("", "Z")


def _ps(*options: str) -> list[str]:
    done = subprocess.run(["ps", *options], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()
