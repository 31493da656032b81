"""One HTTP request: who asked, when, and what came of it, for the log and the metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anytime_ar.serving.jobs import Done


@dataclass
class Call:
    """Filled in by whoever knows."""

    clock: Callable[[], float]
    """The server's, and of all times here."""
    arrival: float
    client: str
    """Whose share it counts towards."""
    model: str | None = None
    n: int | None = None
    asked: int | None = None
    """Codes that were asked for."""
    deadline: float | None = None
    """When the answer had to be there; None: no matter."""
    done: Done | None = None
    """How a draw ended."""
    first_look_s: float | None = None
    """From the arrival to the first preview."""
    error: str | None = None
    """Why there is no answer."""
