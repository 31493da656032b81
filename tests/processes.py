"""Other processes of this machine, as `ps` shows them, and waiting for what they do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

PATIENCE_S = 300.0
"""For what comes at once, or soon on a machine that is slow and busy."""


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


def runs_silently(script: str, *arguments: str) -> None:
    """Run a Python script, which ends with exit code 0 and says nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Look again and again, for a while."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.002)


def _ps(*options: str) -> list[str]:
    done = subprocess.run(["ps", *options], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()
