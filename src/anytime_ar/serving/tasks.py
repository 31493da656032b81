"""Encodes and decodes that clients ask for: done in parts, between two steps of the draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from anytime_ar.sampling.costs import LatencyWindow
from anytime_ar.serving.jobs import CodecJob, CodecResultEvent
from anytime_ar.serving.lane import ModelRunner

_CODEC_WINDOW = 32


class CodecCostModel:
    """What tasks take for each sample, by model and kind.

    Args:
        runners: of the models, which know what they take to begin with.
    """

    def __init__(self, runners: Mapping[str, ModelRunner]) -> None:
        self._runners = runners
        self._sample_s: dict[tuple[str, str], LatencyWindow] = {}
        self.busy_s = 0.0
        """That tasks have taken."""

    def _times(self, job: CodecJob) -> LatencyWindow:
        key = job.model, job.operation
        if key not in self._sample_s:
            self._sample_s[key] = LatencyWindow(
                [self._runners[job.model].codec_s[job.operation]], window=_CODEC_WINDOW
            )
        return self._sample_s[key]

    def chunk_s(self, job: CodecJob) -> float:
        """The next part of a task."""
        return job.chunk_size * self._times(job).quantile(0.5)

    def remaining_s(self, job: CodecJob) -> float:
        """All that is left of it."""
        return len(job.chunks) * self.chunk_s(job)

    def run_chunk(self, job: CodecJob, clock: Callable[[], float]) -> CodecResultEvent | None:
        """Do the next part of a task; returns what came of all of them after the last."""
        begin = clock()
        if job.started_at is None:
            job.started_at = begin
        job.results.append(job.chunks.pop(0)())
        now = clock()
        self.busy_s += now - begin
        self._times(job).add((now - begin) / job.chunk_size)
        if job.chunks:
            return None
        return CodecResultEvent(
            torch.cat(job.results), job.started_at - job.arrival, now - job.started_at
        )
