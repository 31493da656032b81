"""The decode loop: the one place where codes are drawn, one after the other, until a limit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from anytime_ar.sampling.batch import DecodeBatch
from anytime_ar.sampling.budget import ResolvedBudget
from anytime_ar.sampling.cost_model import LatencyTracker

StopReason = Literal["complete", "codes", "deadline", "cancelled"]
"""Why a draw ended: it has all L codes, the number asked for (or that gives the quality asked for),
its time is up, or its flag was set."""


@dataclass(frozen=True)
class PreviewPolicy:
    """Where a draw pauses for a look at what there is."""

    at_codes: Collection[int] = ()
    """At these numbers of codes."""
    interval_s: float | None = None
    """And where at least this many seconds have passed since the last."""

    def is_due(self, codes_drawn: int, since_s: float) -> bool:
        """Whether to pause now."""
        return codes_drawn in self.at_codes or (
            self.interval_s is not None and since_s >= self.interval_s
        )


def decode_loop(
    batch: DecodeBatch,
    codes_drawn: int,
    budget: ResolvedBudget,
    *,
    previews: PreviewPolicy,
    clock: Callable[[], float],
    timer: LatencyTracker,
) -> Iterator[tuple[int, StopReason | None]]:
    """Draw codes for all rows of a batch until the limit.

    Nothing is computed before the next item is asked for, and closing the generator ends the draw.

    Args:
        batch: rows that stand at the same position.
        codes_drawn: that position.
        budget: asked before every code.
        previews: where to yield before the end.
        clock: gives seconds.
        timer: told what every step took, and asked whether another fits.

    Yields:
        How many codes there are, and why the draw ends: None at a pause, a reason once, at the end.
    """
    last = clock()
    start = codes_drawn
    while True:
        stop = check_stop(batch, codes_drawn, budget, clock, timer)
        if stop is None and codes_drawn > start and previews.is_due(codes_drawn, clock() - last):
            yield codes_drawn, None
            last = clock()
            stop = check_stop(batch, codes_drawn, budget, clock, timer)  # looking took its time
        if stop is not None:
            yield codes_drawn, stop
            return
        begin = clock()
        batch.step()
        timer.record_step(clock() - begin)
        codes_drawn += 1


def check_stop(
    batch: DecodeBatch,
    codes_drawn: int,
    budget: ResolvedBudget,
    clock: Callable[[], float],
    timer: LatencyTracker,
) -> StopReason | None:
    """Why a draw of `codes_drawn` codes ends here; None: another code may be drawn."""
    if codes_drawn >= budget.max_codes:
        return "complete" if codes_drawn == batch.decoder.code_length else "codes"
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
