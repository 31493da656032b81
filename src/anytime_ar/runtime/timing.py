"""Time several ways to do the same work, in rounds that alternate between them.

One round runs each case once, so that a slower machine slows all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anytime_ar.errors import InputError
from anytime_ar.runtime.progress import ProgressCallback, no_progress


@dataclass(frozen=True)
class BenchmarkCase:
    """A way to do some work for n samples."""

    name: str
    """Name of the case in reports."""
    run: Callable[[int], object]
    """Does the work for n samples and returns when it is done."""


@dataclass(frozen=True)
class BenchmarkTiming:
    """The times of one case at one batch size."""

    name: str
    """Name of the case in reports."""
    batch_size: int
    """Number of samples per run."""
    seconds: tuple[float, ...]
    """Seconds of each round, in order."""

    @property
    def median_s(self) -> float:
        """Median seconds of a round."""
        return statistics.median(self.seconds)

    def rate(self, codes: int) -> float:
        """Return the codes per second of the median round.

        Args:
            codes: number of codes per sample.
        """
        return self.batch_size * codes / self.median_s


def time_interleaved(
    cases: Sequence[BenchmarkCase],
    batch_sizes: Sequence[int],
    *,
    rounds: int,
    min_time_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    progress: ProgressCallback = no_progress,
) -> list[BenchmarkTiming]:
    """Time cases at every batch size, in rounds that alternate between the cases.

    A first round warms up and does not count.

    Args:
        cases: cases to time.
        batch_sizes: numbers of samples per run.
        rounds: minimum number of rounds, at least 1.
        min_time_s: minimum seconds at each batch size; more rounds run until then.
        clock: returns the time in seconds.
        progress: called after every round.

    Raises:
        InputError: `rounds` is below 1.
    """
    if rounds < 1:
        raise InputError(f"rounds={rounds} times nothing; pass at least 1")
    timings = []
    for done, rows in enumerate(batch_sizes):
        seconds: dict[str, list[float]] = {case.name: [] for case in cases}
        turn, started = 0, clock()
        while turn <= rounds or clock() - started < min_time_s:
            for case in cases:
                begin = clock()
                case.run(rows)
                if turn > 0:
                    seconds[case.name].append(clock() - begin)
            turn += 1
            now = done * (rounds + 1) + min(turn, rounds + 1)
            progress(now, len(batch_sizes) * (rounds + 1), f"{rows} rows")
        timings += [BenchmarkTiming(name, rows, tuple(times)) for name, times in seconds.items()]
    return timings
