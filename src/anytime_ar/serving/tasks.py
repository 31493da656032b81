"""Encodes and decodes that clients ask for: done in parts, between two steps of the draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from anytime_ar.sampling.costs import Times
from anytime_ar.serving.jobs import Computed, Task
from anytime_ar.serving.lane import Lane

_WINDOW = 32


class TaskCosts:
    """What tasks take for each sample, by model and kind.

    Args:
        lanes: of the models, which know what they take to begin with.
    """

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self._lanes = lanes
        self._row_s: dict[tuple[str, str], Times] = {}
        self.busy_s = 0.0
        """That tasks have taken."""

    def _times(self, task: Task) -> Times:
        key = task.model, task.kind
        if key not in self._row_s:
            self._row_s[key] = Times([self._lanes[task.model].task_s[task.kind]], window=_WINDOW)
        return self._row_s[key]

    def part_s(self, task: Task) -> float:
        """The next part of a task."""
        return task.rows * self._times(task).quantile(0.5)

    def seconds(self, task: Task) -> float:
        """All that is left of it."""
        return len(task.parts) * self.part_s(task)

    def compute(self, task: Task, clock: Callable[[], float]) -> Computed | None:
        """Do the next part of a task; returns what came of all of them after the last."""
        begin = clock()
        if task.began is None:
            task.began = begin
        task.results.append(task.parts.pop(0)())
        now = clock()
        self.busy_s += now - begin
        self._times(task).add((now - begin) / task.rows)
        if task.parts:
            return None
        return Computed(torch.cat(task.results), task.began - task.arrival, now - task.began)
