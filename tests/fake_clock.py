"""A clock for tests."""

from __future__ import annotations


class FakeClock:
    """Stands still unless something takes its time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
