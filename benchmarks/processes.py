"""What other processes take, as Linux tells."""

from __future__ import annotations

from pathlib import Path


def memory_mb(pid: int) -> float:
    """Resident memory."""
    return int(_status(pid, "VmRSS:")) / 1024


def threads(pid: int) -> int:
    """How many."""
    return int(_status(pid, "Threads:"))


def _status(pid: int, field: str) -> str:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return status.split(field)[1].split()[0]
