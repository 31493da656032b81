"""When estimates are no reason to refuse anyone.

A machine that was slow a moment ago may be fast now, and an estimate that refuses everybody never
learns better. So for a few turns after a pause jobs are taken in on trial, whatever the estimates
say; then these have been put right, and whoever's floor does not fit by them is told so.
"""

from __future__ import annotations

import math
from collections.abc import Callable

STALE_S = 0.1
"""A pause: estimates were confirmed longer ago than this."""
_PROBATION_ITERATIONS = 3
"""That put them right, see `costs.Drift`."""
_MAX_PROBATION_JOBS = 4
"""More than these at once are not taken on trial."""


class Probation:
    """Whether there is one.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._confirmed_at = -math.inf  # when something was seen of what work takes
        self._iterations = 0  # since then without a pause

    def admits(self, num_jobs: int) -> bool:
        """Whether a job is taken in that does not fit by the estimates.

        Args:
            num_jobs: how many jobs there are already.
        """
        if self._clock() - self._confirmed_at > STALE_S:
            self._iterations = 0
        return self._iterations < _PROBATION_ITERATIONS and num_jobs < _MAX_PROBATION_JOBS

    def end_iteration(self) -> bool:
        """Take note of a turn with steps; whether the trial is over with it."""
        self._confirmed_at = self._clock()
        self._iterations += 1
        return self._iterations == _PROBATION_ITERATIONS
