"""Deadline-aware continuous batching: decide which jobs run and how many codes each gets.

`Scheduler.run_iteration` does four things:

1. It moves waiting jobs into the batch, in order of their deadlines.
2. It draws one code for every job in the batch.
3. It removes jobs that have all their codes. Under load it also removes jobs that have their fair
   share of codes, and jobs that must be decoded now to meet their deadlines.
4. It decodes the samples of the removed jobs and sends them.

Every admitted job gets its minimum codes. A job for which this is impossible is refused when it
arrives, and only then. The scheduler neither waits nor uses threads, so that tests run its
iterations one by one under a clock of their own.
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
    """An iteration-level scheduler for the jobs of all clients.

    Args:
        runners: Runners of the models, by name.
        clock: Clock of the engine, in seconds.
        policy: What the server gives up under load.
    """

    def __init__(
        self,
        runners: Mapping[str, ModelRunner],
        clock: Callable[[], float],
        *,
        policy: OverloadPolicy = "elastic",
    ) -> None:
        """Start without jobs."""
        self.runners, self.clock, self.policy = dict(runners), clock, policy
        self.admission = AdmissionControl(self.runners, clock)
        self.waiting: list[Job] = []
        self.draining = False
        self._probation = Probation(clock)
        self._finished: dict[SamplingJob, StopReason] = {}  # not delivered yet
        self._last_iteration_end: float | None = None  # None if the engine was idle then

    @property
    def active(self) -> list[SamplingJob]:
        """Return the running jobs, in order of `data_due`."""
        draws = [draw for lane in self.runners.values() for draw in lane.active]
        return sorted(draws, key=lambda draw: draw.data_due)

    @property
    def jobs(self) -> list[Job]:
        """Return all waiting and running jobs."""
        return [*self.waiting, *self.active]

    @property
    def idle(self) -> bool:
        """Return whether no job waits or runs."""
        return not self.waiting and not any(lane.active for lane in self.runners.values())

    def warm_up(self) -> None:
        """Measure the costs of all models before the first job."""
        for lane in self.runners.values():
            lane.measure_costs()

    def submit(self, job: Job) -> None:
        """Admit a job.

        Raises:
            ServingError: The minimum codes of the job do not fit, or the server is shutting down.
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
        """Admit no more jobs, and finish all jobs by the time `until`."""
        self.draining = True
        for job in self.jobs:
            job.data_due, job.deadline = min(job.data_due, until), min(job.deadline, until)
        self.waiting.sort(key=lambda job: job.data_due)

    def run_iteration(self) -> None:
        """Draw one more code for every running job, and deliver the finished jobs."""
        # The time since the last iteration counts as overhead of this one.
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
        """End all jobs with an error after a failure, and empty the batches."""
        lost = dict.fromkeys([*self.jobs, *self._finished])
        self.waiting, self._finished = [], {}
        for lane in self.runners.values():
            lane.reset()
        for job in lost:
            job.listener(ServingError("broken", "the model failed; the server's log says how"))

    def probe(self) -> None:
        """Run a few steps of each model on no job's behalf, to see if it works and how fast."""
        for lane in self.runners.values():
            lane.probe()

    def _end_probation(self) -> None:
        """Check the jobs on probation again, and refuse those that do not fit."""
        for job in [job for job in self.jobs if job.on_probation]:
            job.on_probation = False
            if isinstance(job, SamplingJob) and job.codes_drawn >= job.min_codes:
                continue
            shortage_s = self.admission.lateness_s(job, [o for o in self.jobs if o is not job])
            if shortage_s > 0:
                self._remove(job)
                job.listener(overloaded_error(shortage_s))

    def _remove(self, job: Job) -> None:
        """Remove a job from the batch or from the waiting jobs."""
        if isinstance(job, SamplingJob) and job.rows:
            self.runners[job.model].remove(job)
        else:
            self.waiting.remove(job)

    def _enqueue(self, job: Job) -> None:
        bisect.insort(self.waiting, job, key=lambda waiting: waiting.data_due)

    def _drop_waiting(self) -> None:
        """Remove waiting jobs that are cancelled, complete, urgent or past their deadlines."""
        now = self.clock()
        for job in list(self.waiting):
            drawn = job if isinstance(job, SamplingJob) and job.codes_drawn else None
            stop: StopReason | None = None
            if job.cancelled:
                stop = "cancelled"
            elif drawn and drawn.codes_drawn >= drawn.max_codes:
                # A request to refine may ask for no more codes than the sample has.
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
                    full.add(job.model)  # later deadlines must not overtake

    def _can_run(self, job: SamplingJob) -> bool:
        """Return whether a job fits in the batch without making other jobs late."""
        room = self.runners[job.model].has_room(job)
        return room and not self.admission.would_delay(job, self.active)

    def _must_run(self, job: SamplingJob) -> bool:
        """Return whether a job misses its minimum codes if it waits for two more iterations."""
        turn_s = self.admission.iteration_s()
        ending_s = self.admission.pending_decode_s(self.active)
        return self.admission.job_slack_s(job, turn_s) < 2 * turn_s + ending_s

    def _preempt_for(self, job: SamplingJob) -> None:
        """Remove running jobs from the batch until a job can run in time.

        Jobs that have their minimum codes end first, in order of how far they exceed their fair
        share. Then jobs with later deadlines return to the waiting jobs.
        """

        def enough() -> bool:
            spare_s = self.admission.job_slack_s(job, self.admission.iteration_s(job))
            return spare_s >= 0 and self._can_run(job)

        shares = self.admission.client_shares(self.waiting)

        def ahead(other: SamplingJob) -> float:
            """Return by how much a job's share of extra codes exceeds its fair share."""
            return other.extra_progress - shares.get(other.client, 1.0)

        served = [other for other in self.active if other.codes_drawn >= other.min_codes]
        for other in sorted(served, key=ahead, reverse=True):
            if enough():
                return
            # Decode it later in order of deadlines: a decode here would delay all running jobs.
            self.runners[other.model].remove(other)
            self._finished[other] = "load"
        for other in reversed(self.active):
            if other.data_due <= job.data_due or enough():
                return
            self.runners[other.model].remove(other)
            self._enqueue(other)

    def _run_codec_chunk(self, job: CodecJob) -> None:
        """Run the next chunk of a codec job if it is urgent or makes no sampling job late."""
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
        """Decode the samples of finished jobs and send them, in order of `data_due`."""
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
        """Send the previews that are due, if no job waits and none becomes late.

        The first preview of a job is sent even if other jobs wait.
        """
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
    """Load of one model."""

    rows: int
    """Number of occupied batch rows."""
    slots: int
    """Number of rows that the batch has room for."""
    running: int
    """Number of jobs in the batch."""
    waiting: int
    """Number of jobs that wait for slots."""
    backlog_s: float
    """Seconds of the machine's time that the remaining work of all sampling jobs takes."""
    sample_s: float
    """Seconds of the machine's time that one more sample with all codes takes."""


StatsSource = Callable[[], Mapping[str, ModelStats]]
"""Function that returns the load of each model, by name."""


def collect_stats(scheduler: Scheduler) -> dict[str, ModelStats]:
    """Return the load of each model, by name.

    It may be called from any thread, and blocks none.
    """
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
