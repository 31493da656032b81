"""What goes on in each model, for whoever watches or has to choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from anytime_ar.serving.jobs import SamplingJob
from anytime_ar.serving.scheduler import Scheduler


@dataclass(frozen=True)
class ModelStats:
    """Of one model."""

    rows: int
    """That are being drawn."""
    slots: int
    """Rows there is room for."""
    running: int
    """Under way."""
    waiting: int
    """Jobs that wait for room."""
    backlog_s: float
    """What everything that was asked for, and is not there yet, takes of the machine's time."""
    sample_s: float
    """What one more sample with all codes takes of it."""


StatsSource = Callable[[], Mapping[str, ModelStats]]
"""By the names of models."""


def collect_stats(scheduler: Scheduler) -> dict[str, ModelStats]:
    """What goes on in a scheduler; may be asked from any thread, of which it disturbs none."""
    waiting = list(scheduler.waiting)
    found = {}
    for name, lane in scheduler.runners.items():
        active, costs = list(lane.active), lane.costs
        own = [job for job in waiting if job.model == name]
        draws = [job for job in (*active, *own) if isinstance(job, SamplingJob)]
        found[name] = ModelStats(
            rows=lane.num_rows,
            slots=lane.slots,
            running=len(active),
            waiting=len(own),
            backlog_s=sum(sum(lane.remaining_work_s(draw)) for draw in draws),
            sample_s=costs.sampling_work_s(1, 0, lane.model.code_length) + costs.decode_work_s(1),
        )
    return found
