"""Progress of long work: the callback that reports it."""

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
