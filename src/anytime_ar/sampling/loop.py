"""The decode loop: the only loop that draws codes one after the other until a limit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from anytime_ar.runtime.process_exit import end_if_exiting
from anytime_ar.sampling.batch import DecodeBatch
from anytime_ar.sampling.budget import ResolvedBudget
from anytime_ar.sampling.cost_model import LatencyTracker

StopReason = Literal["complete", "deadline", "cancelled"]
"""Why sampling ended. `complete`: all codes that were asked for are there, by number or quality.
`deadline`: another code would not fit. `cancelled`: the cancel flag was set."""


@dataclass(frozen=True)
class PreviewPolicy:
    """Positions or times at which sampling pauses for a preview."""

    at_codes: Collection[int] = ()
    """Numbers of codes at which to pause."""
    interval_s: float | None = None
    """Minimum seconds between pauses, in addition to those at `at_codes`; None: no pauses by
    time."""

    def is_due(self, codes_drawn: int, since_s: float) -> bool:
        """Return whether to pause at a number of codes, `since_s` seconds after the last pause."""
        return codes_drawn in self.at_codes or (
            self.interval_s is not None and since_s >= self.interval_s
        )


NO_PREVIEWS = PreviewPolicy()
"""Policy without previews before the end."""


def decode_loop(
    batch: DecodeBatch,
    codes_drawn: int,
    budget: ResolvedBudget,
    *,
    previews: PreviewPolicy,
    clock: Callable[[], float],
    timer: LatencyTracker,
) -> Iterator[tuple[int, StopReason | None]]:
    """Draw codes for all rows of a batch until the budget ends.

    The generator computes nothing before the next item is requested. Closing it ends sampling.

    Args:
        batch: rows that are at the same position.
        codes_drawn: number of codes that each row has at the start.
        budget: limits, checked before every code.
        previews: when to yield before the end.
        clock: returns the time in seconds.
        timer: records the duration of every step and estimates whether another one fits.

    Yields:
        The number of codes per row, and None at a preview or the stop reason at the end.
    """
    last = clock()
    start = codes_drawn
    while True:
        stop = check_stop(codes_drawn, budget, clock, timer)
        if stop is None and codes_drawn > start and previews.is_due(codes_drawn, clock() - last):
            yield codes_drawn, None
            last = clock()
            # The consumer of the preview took time, so check again.
            stop = check_stop(codes_drawn, budget, clock, timer)
        if stop is not None:
            yield codes_drawn, stop
            return
        end_if_exiting()
        begin = clock()
        batch.step()
        timer.record_step(clock() - begin)
        codes_drawn += 1


def check_stop(
    codes_drawn: int,
    budget: ResolvedBudget,
    clock: Callable[[], float],
    timer: LatencyTracker,
) -> StopReason | None:
    """Return why sampling stops at `codes_drawn` codes; None: draw another code.

    Args:
        codes_drawn: number of codes that each row has.
        budget: limits to check.
        clock: returns the time in seconds.
        timer: estimates the time of one more code and the decode.
    """
    if codes_drawn >= budget.max_codes:
        return "complete"
    if codes_drawn < budget.min_codes:
        return None
    if budget.cancel is not None and budget.cancel.is_set():
        return "cancelled"
    if (
        budget.deadline_at is not None
        and clock() + timer.next_code_and_decode_s() > budget.deadline_at
    ):
        return "deadline"
    return None
