"""Progress of long work: the callback that reports it, and durations in words."""

from __future__ import annotations

from typing import Protocol


class ProgressCallback(Protocol):
    """A function that is called after every step of long work."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Report progress.

        Args:
            done: number of steps done.
            total: number of all steps.
            what: name of the step just done, or of the unit that is counted.
        """


def no_progress(done: int, total: int, what: str) -> None:
    """Ignore the progress of long work: the default callback."""


def format_duration(seconds: float) -> str:
    """Return a duration in words, to two digits: `45 s`, `12 min`, `3.4 h` or `2.1 days`."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{max(1, round(seconds))} s"
