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
    too_short_deadline,
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
        """Start without any jobs."""
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
        jobs = [job for runner in self.runners.values() for job in runner.active]
        return sorted(jobs, key=lambda job: job.data_due)

    @property
    def jobs(self) -> list[Job]:
        """Return all waiting and running jobs."""
        return [*self.waiting, *self.active]

    @property
    def idle(self) -> bool:
        """Return whether no job waits or runs."""
        return not self.waiting and not any(runner.active for runner in self.runners.values())

    def warm_up(self) -> None:
        """Measure the costs of all models before the first job."""
        for runner in self.runners.values():
            runner.measure_costs()

    def submit(self, job: Job) -> None:
        """Admit a job.

        Raises:
            ServingError: The minimum codes of the job do not fit, or the server is shutting down.
        """
        if self.draining:
            raise ServingError(
                "draining", "the server is shutting down; try another server", retry_after_s=1
            )
        job.data_due = job.deadline - self.admission.response_costs.expected_s(job.num_samples)
        if self.policy != "elastic" and isinstance(job, SamplingJob):
            job.min_codes = job.max_codes
            if self.policy == "fixed":
                job.data_due = math.inf
        self.admission.record_demand(job)
        others = self.jobs
        lateness_s = self.admission.lateness_s(job, others)
        job.on_probation = lateness_s > 0
        if job.on_probation and not self._probation.admits(len(others)):
            raise overloaded_error(lateness_s, self._too_short(job))
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
        stepping = [runner for runner in self.runners.values() if runner.active]
        for runner in stepping:
            runner.step()
        if stepping and self._probation.end_iteration():
            self._end_probation()
        self._stop_running()
        self._send_previews()
        now = self.clock()
        self._last_iteration_end = None if self.idle else now
        overhead_s = now - begin - (self._busy_s() - busy_s)
        for runner in stepping:
            runner.costs.observe_overhead(overhead_s / len(stepping))

    def _busy_s(self) -> float:
        return (
            sum(runner.busy_s for runner in self.runners.values())
            + self.admission.codec_costs.busy_s
        )

    def fail_all(self) -> None:
        """End all jobs with an error after a failure, and empty the batches."""
        lost = dict.fromkeys([*self.jobs, *self._finished])
        self.waiting, self._finished = [], {}
        for runner in self.runners.values():
            runner.reset()
        for job in lost:
            job.listener(ServingError("broken", "the model failed; the server's log says how"))

    def probe(self) -> None:
        """Run a few steps of each model on no job's behalf, to see if it works and how fast."""
        for runner in self.runners.values():
            runner.probe()

    def _end_probation(self) -> None:
        """Check the jobs on probation again, and refuse those that do not fit."""
        for job in [job for job in self.jobs if job.on_probation]:
            job.on_probation = False
            if isinstance(job, SamplingJob) and job.codes_drawn >= job.min_codes:
                continue
            lateness_s = self.admission.lateness_s(job, [o for o in self.jobs if o is not job])
            if lateness_s > 0:
                self._remove(job)
                job.listener(overloaded_error(lateness_s, self._too_short(job)))

    def _too_short(self, job: Job) -> str | None:
        """Return what is wrong with the deadline of a job, if an idle server cannot keep it."""
        deadline_s = job.deadline - job.arrival
        return too_short_deadline(deadline_s, self.admission.shortest_deadline_s(job))

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
                job.listener(
                    ServingError("cancelled", "the request was stopped before its first code")
                )
            else:
                job.listener(deadline_error(self._too_short(job), draining=self.draining))

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
        iteration_s = self.admission.iteration_s()
        decode_s = self.admission.pending_decode_s(self.active)
        return self.admission.job_slack_s(job, iteration_s) < 2 * iteration_s + decode_s

    def _preempt_for(self, job: SamplingJob) -> None:
        """Remove running jobs from the batch until a job can run in time.

        Jobs that have their minimum codes end first, in order of how far they exceed their fair
        share. Then jobs with later deadlines return to the waiting jobs.
        """

        def enough() -> bool:
            slack_s = self.admission.job_slack_s(job, self.admission.iteration_s(job))
            return slack_s >= 0 and self._can_run(job)

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
        running: list[SamplingJob] = []
        for job in active:
            stop = job.check_stop(shares.get(job.client, 1.0))
            if stop is not None:
                self._finished[job] = stop
            elif now > job.deadline and math.isfinite(job.data_due):
                self._remove(job)
                job.listener(deadline_error(self._too_short(job), draining=self.draining))
            else:
                running.append(job)
        decode_s = self.admission.decode_s(self._finished)
        urgent = running[: self.admission.count_urgent(running, decode_s)]
        stop = "drain" if self.draining else "deadline"
        self._finished |= {job: stop for job in urgent if job.codes_drawn >= job.min_codes}
        self._deliver_finished()

    def _deliver_finished(self) -> None:
        """Decode the samples of finished jobs and send them, in order of `data_due`."""
        stopped, ending = self.clock(), sorted(self._finished, key=lambda job: job.data_due)
        for runner in self.runners.values():
            own = [job for job in ending if job.model == runner.name]
            for job in own:
                if job.rows:
                    runner.remove(job)
            for job, codes, data, decode_s in runner.decode(own):
                joined = stopped if job.started_at is None else job.started_at
                queue_s, sampling_s = joined - job.arrival, stopped - joined
                at, stop = self.clock(), self._finished.pop(job)
                job.listener(ResultEvent(codes, data, stop, queue_s, sampling_s, decode_s, at))

    def _send_previews(self) -> None:
        """Send the previews that are due, if no job waits and none becomes late.

        The first preview of a job is sent even if other jobs wait.
        """
        now = self.clock()
        for job in self.active:
            if (
                math.isinf(job.preview_interval_s)
                or now - job.last_preview_at < job.preview_interval_s
            ):
                continue
            if job.plan.candidates is not None:  # it has several beginnings yet
                continue
            runner, first = self.runners[job.model], math.isinf(job.last_preview_at)
            busy = bool(self.waiting) and not first
            if busy or self.admission.min_slack_s(self.jobs) < runner.costs.decode_s(
                job.num_samples
            ):
                return
            job.last_preview_at = now
            for _, codes, data, _ in runner.decode([job]):
                job.listener(PreviewEvent(codes, data))


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
    for name, runner in scheduler.runners.items():
        active, costs = list(runner.active), runner.costs
        own = [job for job in waiting if job.model == name]
        sampling_jobs = [job for job in (*active, *own) if isinstance(job, SamplingJob)]
        found[name] = ModelStats(
            rows=runner.num_rows,
            slots=runner.slots,
            running=len(active),
            waiting=len(own),
            backlog_s=sum(sum(runner.remaining_work_s(job)) for job in sampling_jobs),
            sample_s=costs.sampling_work_s(1, 0, runner.model.code_length) + costs.decode_work_s(1),
        )
    return found
