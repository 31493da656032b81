"""Who is drawn, and for how long: continuous batching with budgets that bend.

`Scheduler.run_iteration` is the whole of it: let in what waits, nearest deadline first; draw one code of
everything that is in; let out what has its codes, and under load also what has its share of them,
or must be decoded now to be in time. A draw promises at least its floor; it is refused when it
arrives if that promise cannot be kept, and only then. Nothing here waits or knows about threads, so
that tests turn it by hand under a clock of their own.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from anytime_ar.serving.engine.admission import AdmissionControl, Probation
from anytime_ar.serving.engine.fairness import OverloadPolicy
from anytime_ar.serving.engine.jobs import (
    CodecJob,
    Job,
    PreviewEvent,
    ResultEvent,
    SamplingJob,
    ServingError,
    StopReason,
    deadline_error,
    overloaded_error,
)
from anytime_ar.serving.engine.runner import ModelRunner


class Scheduler:
    """Draws for many at once.

    Args:
        runners: of the models, by name.
        clock: gives seconds.
        policy: what gives way.
    """

    def __init__(
        self,
        runners: Mapping[str, ModelRunner],
        clock: Callable[[], float],
        *,
        policy: OverloadPolicy = "elastic",
    ) -> None:
        self.runners, self.clock, self.policy = dict(runners), clock, policy
        self.admission = AdmissionControl(self.runners, clock)
        self.waiting: list[Job] = []
        self.draining = False
        self._probation = Probation(clock)
        self._finished: dict[SamplingJob, StopReason] = {}  # in this turn, and not delivered yet
        self._last_iteration_end: float | None = (
            None  # when the last turn ended, if it left something
        )

    @property
    def active(self) -> list[SamplingJob]:
        """All that is being drawn, nearest deadline first."""
        draws = [draw for lane in self.runners.values() for draw in lane.active]
        return sorted(draws, key=lambda draw: draw.data_due)

    @property
    def jobs(self) -> list[Job]:
        """All that waits or is drawn."""
        return [*self.waiting, *self.active]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not any(lane.active for lane in self.runners.values())

    def warm_up(self) -> None:
        """Find out what work takes here, before there is any."""
        for lane in self.runners.values():
            lane.measure_costs()

    def submit(self, job: Job) -> None:
        """Take a job in.

        Raises:
            Refused: its floor does not fit, or the server is going down.
        """
        if self.draining:
            raise ServingError(
                "draining", "the server is going down; ask another one", retry_after_s=1
            )
        job.data_due = job.deadline - self.admission.response_costs.expected_s(job.num_samples)
        if self.policy != "elastic" and isinstance(job, SamplingJob):
            job.min_codes = job.max_codes
            if self.policy == "fixed":
                job.data_due = math.inf
        self.admission.record_demand(job)
        others = self.jobs
        shortage_s = self.admission.lateness_s(job, others)
        job.on_probation = shortage_s > 0
        if job.on_probation and not self._probation.admits(len(others)):
            raise overloaded_error(shortage_s)
        self._enqueue(job)

    def drain(self, until: float) -> None:
        """Take in nothing more, and be done with all there is at a time."""
        self.draining = True
        for job in self.jobs:
            job.data_due, job.deadline = min(job.data_due, until), min(job.deadline, until)
        self.waiting.sort(key=lambda job: job.data_due)

    def run_iteration(self) -> None:
        """Draw one more code of everything that is in, and deliver what is finished."""
        # What was taken in since the last turn belongs to this one.
        begin = self.clock() if self._last_iteration_end is None else self._last_iteration_end
        busy_s = self._busy_s()
        self.admission.clear_cached_work()
        self._drop_waiting()
        self._schedule_waiting()
        stepping = [lane for lane in self.runners.values() if lane.active]
        for lane in stepping:
            lane.step()
        if stepping and self._probation.end_iteration():
            self._end_probation()
        self._stop_running()
        self._send_previews()
        now = self.clock()
        self._last_iteration_end = None if self.idle else now
        around_s = now - begin - (self._busy_s() - busy_s)
        for lane in stepping:
            lane.costs.observe_overhead(around_s / len(stepping))

    def _busy_s(self) -> float:
        return (
            sum(lane.busy_s for lane in self.runners.values()) + self.admission.codec_costs.busy_s
        )

    def fail_all(self) -> None:
        """Give up all jobs, after a failure, and begin afresh."""
        lost = dict.fromkeys([*self.jobs, *self._finished])
        self.waiting, self._finished = [], {}
        for lane in self.runners.values():
            lane.reset()
        for job in lost:
            job.listener(ServingError("broken", "the model failed; the server's log says how"))

    def probe(self) -> None:
        """Find out whether models work, and how fast, while there is nothing to do."""
        for lane in self.runners.values():
            lane.probe()

    def _end_probation(self) -> None:
        """Those that were taken in on trial, by estimates that have been put right."""
        for job in [job for job in self.jobs if job.on_probation]:
            job.on_probation = False
            if isinstance(job, SamplingJob) and job.codes_drawn >= job.min_codes:
                continue
            shortage_s = self.admission.lateness_s(job, [o for o in self.jobs if o is not job])
            if shortage_s > 0:
                self._remove(job)
                job.listener(overloaded_error(shortage_s))

    def _remove(self, job: Job) -> None:
        """Of the batch, or of what waits."""
        if isinstance(job, SamplingJob) and job.rows:
            self.runners[job.model].remove(job)
        else:
            self.waiting.remove(job)

    def _enqueue(self, job: Job) -> None:
        bisect.insort(self.waiting, job, key=lambda waiting: waiting.data_due)

    def _drop_waiting(self) -> None:
        """What need not or cannot be drawn any more."""
        now = self.clock()
        for job in list(self.waiting):
            drawn = job if isinstance(job, SamplingJob) and job.codes_drawn else None
            stop: StopReason | None = None
            if job.cancelled:
                stop = "cancelled"
            elif (
                drawn and drawn.codes_drawn >= drawn.max_codes
            ):  # it came back with all that it asks for
                stop = "complete"
            elif drawn and drawn.codes_drawn >= drawn.min_codes and self.admission.is_urgent(drawn):
                stop = "load"
            elif now <= job.deadline or math.isinf(job.data_due):
                continue
            self.waiting.remove(job)
            if drawn and stop:
                self._finished[drawn] = stop
            elif stop:
                job.listener(ServingError("cancelled", "it was stopped before its first code"))
            else:
                job.listener(deadline_error(draining=self.draining))

    def _schedule_waiting(self) -> None:
        full: set[str] = set()
        for job in list(self.waiting):
            if isinstance(job, CodecJob):
                self._run_codec_chunk(job)
            elif job.model not in full:
                assert isinstance(job, SamplingJob)
                if self._must_run(job):
                    self._preempt_for(job)
                if self._can_run(job):
                    self.waiting.remove(job)
                    self.runners[job.model].add(job)
                else:
                    full.add(job.model)  # those behind it do not overtake

    def _can_run(self, job: SamplingJob) -> bool:
        """Whether there is room, and nobody else is late for it."""
        room = self.runners[job.model].has_room(job)
        return room and not self.admission.would_delay(job, self.active)

    def _must_run(self, job: SamplingJob) -> bool:
        """Whether it is late for its floor if it waits for some more turns."""
        turn_s = self.admission.iteration_s()
        ending_s = self.admission.pending_decode_s(self.active)
        return self.admission.job_slack_s(job, turn_s) < 2 * turn_s + ending_s

    def _preempt_for(self, job: SamplingJob) -> None:
        """Let others out until a draw comes in time: those that have their floor, who has most of
        its share first; then, to be continued later, those that have more time."""

        def enough() -> bool:
            spare_s = self.admission.job_slack_s(job, self.admission.iteration_s(job))
            return spare_s >= 0 and self._can_run(job)

        shares = self.admission.client_shares(self.waiting)

        def ahead(other: SamplingJob) -> float:
            """By how much of its extra codes it is beyond its share."""
            return other.extra_progress - shares.get(other.client, 1.0)

        served = [other for other in self.active if other.codes_drawn >= other.min_codes]
        for other in sorted(served, key=ahead, reverse=True):
            if enough():
                return
            # Decoded with the rest, nearest deadline first: now, they would all wait for it.
            self.runners[other.model].remove(other)
            self._finished[other] = "load"
        for other in reversed(self.active):
            if other.data_due <= job.data_due or enough():
                return
            self.runners[other.model].remove(other)
            self._enqueue(other)

    def _run_codec_chunk(self, job: CodecJob) -> None:
        """One part of a task, if nobody has to wait for it, or it cannot wait."""
        costs = self.admission.codec_costs
        urgent = self.clock() + costs.remaining_s(job) + self.admission.iteration_s() > job.data_due
        if not urgent and self.admission.min_slack_s(self.jobs) < costs.chunk_s(job):
            return
        computed = costs.run_chunk(job, self.clock)
        if computed is not None:
            self.waiting.remove(job)
            job.listener(computed)

    def _stop_running(self) -> None:
        now, active = self.clock(), self.active
        shares = self.admission.client_shares(self.waiting)
        going: list[SamplingJob] = []
        for draw in active:
            stop = draw.check_stop(shares.get(draw.client, 1.0))
            if stop is not None:
                self._finished[draw] = stop
            elif now > draw.deadline and math.isfinite(draw.data_due):
                self._remove(draw)
                draw.listener(deadline_error(draining=self.draining))
            else:
                going.append(draw)
        decode_s = self.admission.decode_s(self._finished)
        hurried = going[: self.admission.count_urgent(going, decode_s)]
        stop = "drain" if self.draining else "deadline"
        self._finished |= {draw: stop for draw in hurried if draw.codes_drawn >= draw.min_codes}
        self._deliver_finished()

    def _deliver_finished(self) -> None:
        """Decode and deliver what has stopped, nearest deadline first."""
        stopped, ending = self.clock(), sorted(self._finished, key=lambda draw: draw.data_due)
        for lane in self.runners.values():
            own = [draw for draw in ending if draw.model == lane.name]
            for draw in own:
                if draw.rows:
                    lane.remove(draw)
            for draw, codes, data, decode_s in lane.decode(own):
                joined = stopped if draw.started_at is None else draw.started_at
                queue_s, sampling_s = joined - draw.arrival, stopped - joined
                at, stop = self.clock(), self._finished.pop(draw)
                draw.listener(ResultEvent(codes, data, stop, queue_s, sampling_s, decode_s, at))

    def _send_previews(self) -> None:
        """Looks, where they are due and nobody waits; the first one always, if there is time."""
        now = self.clock()
        for draw in self.active:
            if (
                math.isinf(draw.preview_interval_s)
                or now - draw.last_preview_at < draw.preview_interval_s
            ):
                continue
            lane, first = self.runners[draw.model], math.isinf(draw.last_preview_at)
            busy = bool(self.waiting) and not first
            if busy or self.admission.min_slack_s(self.jobs) < lane.costs.decode_s(
                draw.num_samples
            ):
                return
            draw.last_preview_at = now
            for _, codes, data, _ in lane.decode([draw]):
                draw.listener(PreviewEvent(codes, data))


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
