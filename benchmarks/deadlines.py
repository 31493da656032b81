"""Measure how often deadlines are met, and how much of the time is used.

    anytime bench MODEL deadlines

The deadlines lie between the time of one code and that of all codes. Samples with a deadline
alternate with samples without one, which show how many codes the same time allowed at that moment.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from jsonargparse import Namespace

from anytime_ar.cli.options import progress_bar
from anytime_ar.errors import InputError
from anytime_ar.runtime.progress import ProgressCallback, no_progress
from anytime_ar.sampling import AnytimeModel, load

_CALIBRATION_DRAWS = 20
"""Number of samples without a deadline that measure the time of all codes."""
_WARM_UP_DRAWS = 100
"""Number of samples with a generous deadline before the measurement."""


def run_deadlines(arguments: Namespace) -> tuple[dict[str, Any], str]:
    """Measure the deadlines of a model and return the figures and the text of the report.

    Args:
        arguments: options of `anytime bench`.
    """
    model = load(arguments.model, device=arguments.device, precision=arguments.precision)
    with progress_bar("deadlines") as progress:
        records = measure_deadlines(
            model, n=arguments.num_samples, draws=arguments.draws, progress=progress
        )
    figures = {
        "batch_size": arguments.num_samples,
        "precision": arguments.precision,
        "busy_processes": arguments.busy_processes,
        "deadlines": [record.to_json() for record in records],
    }
    return figures, deadline_table(records)


def deadline_table(records: list[DeadlineResult]) -> str:
    """Return a table of missed deadlines, finish fractions and numbers of codes."""
    lines = [
        f"{'deadline':>9}{'draws':>7}{'missed':>8}{'p50':>8}{'p99':>8}{'max':>8}"
        f"{'codes':>8}{'affordable':>12}{'used':>8}",
        f"{'ms':>9}{'':>15}{'finished at % of deadline':>24}",
    ]
    for record in records:
        p50, p99, most = (100 * record.quantile(share) for share in (0.5, 0.99, 1.0))
        row = record.to_json()
        lines.append(
            f"{1000 * record.deadline_s:>9.2f}{row['draws']:>7}{row['misses']:>8}"
            f"{p50:>8.1f}{p99:>8.1f}{most:>8.1f}{row['codes']:>8.1f}"
            f"{row['affordable_codes']:>12.1f}{100 * record.utilisation:>6.0f} %"
        )
    return "\n".join(lines)


@dataclass
class DeadlineResult:
    """The outcomes of all calls with one deadline."""

    deadline_s: float
    """Seconds from the call within which samples are requested."""
    finish_fractions: list[float] = field(default_factory=list)
    """Time of each call as a fraction of the deadline; above 1 if it was missed."""
    codes: list[int] = field(default_factory=list)
    """Number of codes drawn in each call."""
    affordable: list[int] = field(default_factory=list)
    """Number of codes that calls without a deadline decoded in the same time."""

    @property
    def misses(self) -> int:
        """Number of calls that missed the deadline."""
        return sum(share > 1 for share in self.finish_fractions)

    def quantile(self, share: float) -> float:
        """Return the finish fraction that this share of the calls does not exceed."""
        ordered = sorted(self.finish_fractions)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def utilisation(self) -> float:
        """Mean number of codes drawn, as a share of the mean number that the time allowed."""
        return statistics.fmean(self.codes) / statistics.fmean(self.affordable)

    def to_json(self) -> dict[str, Any]:
        """Return the results by name, as a JSON object."""
        return {
            "deadline_s": round(self.deadline_s, 6),
            "draws": len(self.finish_fractions),
            "misses": self.misses,
            "finish_fraction_p50": round(self.quantile(0.5), 4),
            "finish_fraction_p99": round(self.quantile(0.99), 4),
            "finish_fraction_max": round(max(self.finish_fractions), 4),
            "codes": round(statistics.fmean(self.codes), 2),
            "affordable_codes": round(statistics.fmean(self.affordable), 2),
            "utilisation": round(self.utilisation, 4),
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
    """Generate n samples at each of several deadlines, alternating between them.

    Args:
        model: model to measure.
        n: number of samples per call.
        deadlines: number of deadlines, at least 2, evenly spaced from the time of one code to that
            of all codes.
        draws: number of calls at each deadline.
        clock: returns the time in seconds.
        progress: called after every round.

    Raises:
        InputError: there are fewer than two deadlines, or no calls.
    """
    if deadlines < 2 or draws < 1:
        raise InputError(
            f"deadlines={deadlines} and draws={draws} measure nothing; pass at least 2 and 1"
        )
    model.warm_up(n)
    length = model.code_length
    baseline_times = [
        _time_to_each_code(model, n, seed, clock) for seed in range(_CALIBRATION_DRAWS)
    ]
    full_s = statistics.median(times[-1] for times in baseline_times)
    for seed in range(_WARM_UP_DRAWS):  # reach the steady state before measuring
        model.generate(n, deadline_s=2 * full_s, seed=seed)
    shortest_s = 1.02 * model.min_deadline_s(n)
    step = (max(full_s, shortest_s) - shortest_s) / (deadlines - 1)
    records = [DeadlineResult(shortest_s + i * step) for i in range(deadlines)]
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
    """A cancel flag that is never set, and that records when the loop checks it.

    The decode loop checks the flag after every code.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start without recorded times."""
        self._clock = clock
        self.times: list[float] = []

    def is_set(self) -> bool:
        """Record the time and return False."""
        self.times.append(self._clock())
        return False


def _time_to_each_code(
    model: AnytimeModel, n: int, seed: int, clock: Callable[[], float]
) -> list[float]:
    """Return the seconds until k decoded codes without a deadline, for k = 1..L."""
    step_clock = _StepClock(clock)
    begin = clock()
    model.generate(n, seed=seed, cancel=step_clock)
    total_s = clock() - begin
    drawn_s = [asked - begin for asked in step_clock.times]  # after 1..L-1 codes
    if not drawn_s:
        return [total_s]
    last_step_s = statistics.median(later - early for early, later in pairwise([0.0, *drawn_s]))
    decode_s = max(0.0, total_s - drawn_s[-1] - last_step_s)
    return [seconds + decode_s for seconds in drawn_s] + [total_s]
