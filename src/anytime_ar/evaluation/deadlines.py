"""Whether deadlines are kept, and how much of the time they leave is used.

Deadlines lie between the time of one code and that of all. Draws at each of them take turns with
unlimited ones, which tell what the same time could have bought just then.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from anytime_ar.errors import InputError
from anytime_ar.evaluation.protocols import ProgressCallback, no_progress
from anytime_ar.sampling import AnytimeModel

_CALIBRATION_DRAWS = 20
_WARM_UP_DRAWS = 100
"""Draws without and with a deadline before anything is counted."""


@dataclass
class DeadlineResult:
    """What came of the draws at one deadline."""

    deadline_s: float
    finish_fractions: list[float] = field(default_factory=list)
    """Time from call to return, as a share of the deadline."""
    codes: list[int] = field(default_factory=list)
    """Codes drawn."""
    affordable: list[int] = field(default_factory=list)
    """Codes that unlimited draws could have decoded by the deadline."""

    @property
    def misses(self) -> int:
        """Draws that came late."""
        return sum(share > 1 for share in self.finish_fractions)

    def quantile(self, share: float) -> float:
        """The share of the deadline within which that share of the draws finished."""
        ordered = sorted(self.finish_fractions)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def utilisation(self) -> float:
        """Codes drawn as a share of those that the time could have bought; both are means."""
        return statistics.fmean(self.codes) / statistics.fmean(self.affordable)

    def to_json(self) -> dict[str, Any]:
        """Figures by name."""
        return {
            "deadline_s": round(self.deadline_s, 6),
            "draws": len(self.finish_fractions),
            "misses": self.misses,
            "finished_p50": round(self.quantile(0.5), 4),
            "finished_p99": round(self.quantile(0.99), 4),
            "finished_max": round(max(self.finish_fractions), 4),
            "codes": round(statistics.fmean(self.codes), 2),
            "affordable_codes": round(statistics.fmean(self.affordable), 2),
            "used": round(self.utilisation, 4),
        }


def measure_deadlines(
    model: AnytimeModel,
    *,
    n: int = 1,
    deadlines: int = 8,
    draws: int = 1000,
    clock: Callable[[], float] = time.perf_counter,
    progress: ProgressCallback = no_progress,
) -> list[DeadlineResult]:
    """Draw n samples at each of some deadlines, again and again, in turns.

    Args:
        model: to draw from.
        n: samples of each draw.
        deadlines: how many, evenly spaced from the time of one code to that of all.
        draws: at each deadline.
        clock: gives seconds.
        progress: told after every round.

    Raises:
        InputError: fewer than two deadlines, or no draws.
    """
    if deadlines < 2 or draws < 1:
        raise InputError(
            f"deadlines={deadlines} and draws={draws} measure nothing; pass at least 2 and 1"
        )
    model.warm_up(n)
    length = model.code_length
    trials = [_time_to_each_code(model, n, seed, clock) for seed in range(_CALIBRATION_DRAWS)]
    full_s = statistics.median(trial[-1] for trial in trials)
    for seed in range(_WARM_UP_DRAWS):  # what it takes in the long run, not only in the warm-up
        model.generate(n, deadline_s=2 * full_s, seed=seed)
    floor_s = 1.02 * model.min_deadline_s(n)
    step = (max(full_s, floor_s) - floor_s) / (deadlines - 1)
    records = [DeadlineResult(floor_s + i * step) for i in range(deadlines)]
    for turn in range(draws):
        done_by = _time_to_each_code(model, n, turn, clock)
        for record in records:
            begin = clock()
            result = model.generate(n, deadline_s=record.deadline_s, seed=turn)
            record.finish_fractions.append((clock() - begin) / record.deadline_s)
            record.codes.append(result.codes_drawn)
            affordable = sum(seconds <= record.deadline_s for seconds in done_by)
            record.affordable.append(max(1, min(length, affordable)))
        progress(turn + 1, draws, "deadlines")
    return records


class _StepClock:
    """A cancel flag that is never set: the loop asks it after every code, and it notes when."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.times: list[float] = []

    def is_set(self) -> bool:
        self.times.append(self._clock())
        return False


def _time_to_each_code(
    model: AnytimeModel, n: int, seed: int, clock: Callable[[], float]
) -> list[float]:
    """Seconds after which an unlimited draw could have returned k decoded codes, for k = 1..L."""
    watch = _StepClock(clock)
    begin = clock()
    model.generate(n, seed=seed, cancel=watch)
    whole_s = clock() - begin
    drawn_s = [asked - begin for asked in watch.times]  # after 1..L-1 codes
    if not drawn_s:
        return [whole_s]
    last_step_s = statistics.median(later - early for early, later in pairwise([0.0, *drawn_s]))
    finish_s = max(0.0, whole_s - drawn_s[-1] - last_step_s)
    return [seconds + finish_s for seconds in drawn_s] + [whole_s]
