"""Admission control: estimates of which jobs meet their deadlines, and probation for new jobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from anytime_ar.serving.engine.costs import ResponseCostModel
from anytime_ar.serving.engine.fairness import (
    TARGET_UTILISATION,
    DemandTracker,
    JobCost,
    max_lateness_s,
    max_min_fair_shares,
)
from anytime_ar.serving.engine.jobs import CodecJob, Job, SamplingJob
from anytime_ar.serving.engine.runner import CodecCostModel, ModelRunner

QUEUE_TIME_SHARE = 0.5
"""Share of the waiting jobs' remaining time in which they should be done. The rest is left for jobs
that arrive later."""
ADMISSION_TIME_SHARE = 0.9
"""Share of a job's remaining time in which its minimum codes must fit. The rest is a margin: a full
queue finishes its jobs just before their deadlines."""


class AdmissionControl:
    """Estimates of slack, lateness and fair shares of jobs. It does not change the jobs.

    Args:
        runners: Runners of the models, by name.
        clock: Clock of the engine, in seconds.
    """

    def __init__(self, runners: Mapping[str, ModelRunner], clock: Callable[[], float]) -> None:
        """Start with default costs and without any demand."""
        self._runners, self._clock = runners, clock
        self.codec_costs = CodecCostModel(runners)
        self.response_costs = ResponseCostModel()
        self._demands = DemandTracker()
        self._job_work: dict[Job, tuple[float, float]] = {}  # cached for one iteration

    def iteration_s(self, candidate: SamplingJob | None = None) -> float:
        """Return the seconds of one iteration, which draws a code for each running job.

        Args:
            candidate: Job to add to the running ones; None for none.
        """
        return sum(
            runner.step_s(
                candidate if candidate is not None and candidate.model == runner.name else None
            )
            for runner in self._runners.values()
        )

    def job_slack_s(self, job: SamplingJob, iteration_s: float) -> float:
        """Return the seconds that a job has left after its minimum codes and their decode.

        Args:
            job: Job whose slack is wanted.
            iteration_s: Seconds for each code.
        """
        codes = max(0, job.min_codes - job.codes_drawn)
        return job.data_due - self._clock() - codes * iteration_s - self.decode_s([job])

    def decode_s(self, jobs: Iterable[SamplingJob]) -> float:
        """Return the seconds to decode the samples of jobs, one job after the other."""
        return sum(self._runners[job.model].costs.decode_s(job.num_samples) for job in jobs)

    def pending_decode_s(self, jobs: Iterable[Job]) -> float:
        """Return the seconds to decode all running jobs that the next code may complete."""
        sampling_jobs = (job for job in jobs if isinstance(job, SamplingJob) and job.rows)
        return self.decode_s(job for job in sampling_jobs if job.codes_drawn + 1 >= job.min_codes)

    def would_delay(self, job: SamplingJob, active: Iterable[SamplingJob]) -> bool:
        """Return whether adding a job to the batch makes another job miss its minimum codes."""
        iteration_s = self.iteration_s(job)
        return any(
            self.job_slack_s(other, iteration_s) < 0
            for other in active
            if other.codes_drawn < other.min_codes
        )

    def count_urgent(self, active: Sequence[SamplingJob], others_s: float) -> int:
        """Return how many running jobs must be decoded now, counted from the earliest deadline.

        The count includes every job up to the last one that another iteration would make late.

        Args:
            active: Running jobs in order of `data_due`.
            others_s: Seconds of work that must be done before these jobs.
        """
        ready_s = self._clock() + self.iteration_s() + others_s
        delays_s = {name: self._tail_delay_s(name) for name in self._runners}
        count = 0
        for i, job in enumerate(active):
            ready_s += self.decode_s([job])
            if ready_s + delays_s[job.model] > job.data_due:
                count = i + 1
        return count

    def is_urgent(self, job: SamplingJob) -> bool:
        """Return whether a waiting job must be decoded after the next iteration."""
        return self.job_slack_s(job, 0) < 2 * self.iteration_s() + self._tail_delay_s(job.model)

    def _tail_delay_s(self, model: str) -> float:
        """Return the rare delay in seconds of a model and of the response together."""
        return self._runners[model].costs.tail_delay_s + self.response_costs.tail_delay_s

    def client_shares(self, waiting: Sequence[Job]) -> dict[str, float]:
        """Return the share of extra codes that each client's jobs may have, 0..1.

        Args:
            waiting: Jobs that wait for slots.

        Returns:
            The share by client. Empty if no job waits: then all jobs may have all their codes.
        """
        if not waiting:
            return {}
        now = self._clock()
        left_s = sum(max(0.0, job.data_due - now) for job in waiting) / len(waiting)
        period_s = max(QUEUE_TIME_SHARE * left_s, 1e-6)
        costs = [self._job_cost(job, job.data_due - now) for job in waiting]
        return max_min_fair_shares(self._demands.current(now), costs, period_s)

    def lateness_s(self, candidate: Job, others: Sequence[Job]) -> float:
        """Return by how many seconds minimum codes come late if a job is admitted.

        Args:
            candidate: Job to admit.
            others: All waiting and running jobs.

        Returns:
            The maximum lateness in seconds, 0 or less if all minimum codes are in time.
        """
        now = self._clock()
        costs = [self._job_cost(job, ADMISSION_TIME_SHARE * (job.data_due - now)) for job in others]
        new = self._job_cost(candidate, ADMISSION_TIME_SHARE * (candidate.data_due - now))
        self._job_work.pop(candidate, None)  # a refused job must not stay in the cache
        own = [cost for cost in costs if cost.client == candidate.client]
        speed = self._demands.guaranteed_speed(candidate.client, now)
        # The job arrives during an iteration and waits at least for the end of it.
        iteration_s = self.iteration_s() + self.pending_decode_s(others)
        late_s = (
            max(
                max_lateness_s(costs, new, TARGET_UTILISATION),
                max_lateness_s(own, new, TARGET_UTILISATION * speed),
            )
            + iteration_s
        )
        if isinstance(candidate, SamplingJob):
            # Codes come one after the other, even on an idle machine.
            iteration_s = self._runners[candidate.model].step_alone_s(candidate)
            late_s = max(late_s, -self.job_slack_s(candidate, iteration_s))
        return late_s

    def shortest_deadline_s(self, job: Job) -> float:
        """Return the shortest deadline in seconds that a job is admitted with on an idle server."""
        min_s, _ = self._work_s(job)
        shortest_s = min_s / TARGET_UTILISATION / ADMISSION_TIME_SHARE
        if isinstance(job, SamplingJob):
            codes = max(0, job.min_codes - job.codes_drawn)
            alone_s = codes * self._runners[job.model].step_alone_s(job) + self.decode_s([job])
            shortest_s = max(shortest_s, alone_s)
        return shortest_s + self.response_costs.expected_s(job.num_samples)

    def record_demand(self, job: Job) -> None:
        """Add a job to the demand of its client."""
        self._demands.record(self._job_cost(job, 0.0), self._clock())

    def min_slack_s(self, jobs: Iterable[Job]) -> float:
        """Return the seconds of other work that can run now without making a job late."""
        now, iteration_s, needed_s, slack_s = self._clock(), self.iteration_s(), 0.0, math.inf
        sampling_jobs = [job for job in jobs if isinstance(job, SamplingJob)]
        for job in sorted(sampling_jobs, key=lambda job: job.data_due):
            needed_s += self._job_cost(job, 0.0).min_s
            slack_s = min(slack_s, job.data_due - now - iteration_s - needed_s)
        return slack_s

    def clear_cached_work(self) -> None:
        """Clear the cached costs of jobs, which change with each code."""
        self._job_work.clear()

    def _job_cost(self, job: Job, due_in_s: float) -> JobCost:
        if job not in self._job_work:
            self._job_work[job] = self._work_s(job)
        return JobCost(job.client, *self._job_work[job], due_in_s)

    def _work_s(self, job: Job) -> tuple[float, float]:
        """Return the seconds that the minimum codes and the extra codes of a job still need."""
        if isinstance(job, CodecJob):
            return self.codec_costs.remaining_s(job), 0.0
        assert isinstance(job, SamplingJob)
        return self._runners[job.model].remaining_work_s(job)


STALE_S = 0.1
"""Seconds without an observed step after which estimates of costs are out of date."""
_PROBATION_ITERATIONS = 3
"""Iterations that correct the estimates; see `costs.CostCorrection`."""
_MAX_PROBATION_JOBS = 4
"""Number of jobs from which on no further job is admitted on probation."""


class Probation:
    """Rule by which jobs are admitted although the estimates say that they do not fit.

    After a pause the estimates of costs may be wrong. Jobs are then admitted on probation, for as
    many iterations as correct the estimates.

    Args:
        clock: Clock of the engine, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start without any observation."""
        self._clock = clock
        self._confirmed_at = -math.inf  # time of the last observed step
        self._iterations = 0  # iterations since the last pause

    def admits(self, num_jobs: int) -> bool:
        """Return whether to admit a job that does not fit by the estimates.

        Args:
            num_jobs: Number of waiting and running jobs.
        """
        if self._clock() - self._confirmed_at > STALE_S:
            self._iterations = 0
        return self._iterations < _PROBATION_ITERATIONS and num_jobs < _MAX_PROBATION_JOBS

    def end_iteration(self) -> bool:
        """Record an iteration with steps, and return whether probation ends with it."""
        self._confirmed_at = self._clock()
        self._iterations += 1
        return self._iterations == _PROBATION_ITERATIONS
