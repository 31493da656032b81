"""The decode loop: the one place where codes are drawn, one after the other, until a limit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from anytime_ar.sampling.batch import DecodeBatch
from anytime_ar.sampling.budget import Limit
from anytime_ar.sampling.costs import Pace

Stop = Literal["complete", "codes", "deadline", "cancelled"]
"""Why a draw ended: it has all L codes, the number asked for (or that gives the quality asked for),
its time is up, or its flag was set."""


@dataclass(frozen=True)
class Pauses:
    """Where a draw pauses for a look at what there is."""

    codes: Collection[int] = ()
    """At these numbers of codes."""
    every_s: float | None = None
    """And where at least this many seconds have passed since the last."""

    def wants(self, drawn: int, since_s: float) -> bool:
        """Whether to pause now."""
        return drawn in self.codes or (self.every_s is not None and since_s >= self.every_s)


def draw(
    batch: DecodeBatch,
    drawn: int,
    limit: Limit,
    *,
    pauses: Pauses,
    clock: Callable[[], float],
    pace: Pace,
) -> Iterator[tuple[int, Stop | None]]:
    """Draw codes for all rows of a batch until the limit.

    Nothing is computed before the next item is asked for, and closing the generator ends the draw.

    Args:
        batch: rows that stand at the same position.
        drawn: that position.
        limit: asked before every code.
        pauses: where to yield before the end.
        clock: gives seconds.
        pace: told what every step took, and asked whether another fits.

    Yields:
        How many codes there are, and why the draw ends: None at a pause, a reason once, at the end.
    """
    last = clock()
    start = drawn
    while True:
        stop = why_stop(batch, drawn, limit, clock, pace)
        if stop is None and drawn > start and pauses.wants(drawn, clock() - last):
            yield drawn, None
            last = clock()
            stop = why_stop(batch, drawn, limit, clock, pace)  # looking took its time
        if stop is not None:
            yield drawn, stop
            return
        begin = clock()
        batch.step()
        pace.stepped(clock() - begin)
        drawn += 1


def why_stop(
    batch: DecodeBatch, drawn: int, limit: Limit, clock: Callable[[], float], pace: Pace
) -> Stop | None:
    """Why a draw of `drawn` codes ends here; None: another code may be drawn."""
    if drawn >= limit.codes:
        return "complete" if drawn == batch.decoder.code_length else "codes"
    if drawn < limit.min_codes:
        return None
    if limit.cancel is not None and limit.cancel.is_set():
        return "cancelled"
    if limit.deadline is not None and clock() + pace.one_more_s() > limit.deadline:
        return "deadline"
    return None
