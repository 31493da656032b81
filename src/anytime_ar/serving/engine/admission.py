"""What will be in time and what will not, by what work takes here and now."""

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
"""The share of the time that waiting draws have in which they should be gone: the rest is kept for
those who come later."""
ADMISSION_TIME_SHARE = 0.9
"""The share of the time that jobs have in which their floors have to fit: a queue as long as
promises allow is served at the last moment, where nothing must go wrong."""


class AdmissionControl:
    """Judges what is drawn and what waits, and remembers what it learns; changes neither.

    Args:
        runners: of the models, by name.
        clock: the engine's.
    """

    def __init__(self, runners: Mapping[str, ModelRunner], clock: Callable[[], float]) -> None:
        self._runners, self._clock = runners, clock
        self.codec_costs = CodecCostModel(runners)
        self.response_costs = ResponseCostModel()
        self._demands = DemandTracker()
        self._job_work: dict[Job, tuple[float, float]] = {}  # for one turn

    def iteration_s(self, candidate: SamplingJob | None = None) -> float:
        """What a code of all that is drawn takes, with one more draw if that is given."""
        return sum(
            lane.step_s(
                candidate if candidate is not None and candidate.model == lane.name else None
            )
            for lane in self._runners.values()
        )

    def job_slack_s(self, job: SamplingJob, iteration_s: float) -> float:
        """What is left of a draw's time after its floor, at so much for a code."""
        codes = max(0, job.min_codes - job.codes_drawn)
        return job.data_due - self._clock() - codes * iteration_s - self.decode_s([job])

    def decode_s(self, jobs: Iterable[SamplingJob]) -> float:
        """What it takes to decode them."""
        return sum(self._runners[draw.model].costs.decode_s(draw.num_samples) for draw in jobs)

    def pending_decode_s(self, jobs: Iterable[Job]) -> float:
        """What it takes to decode those that may leave after the next code."""
        draws = (job for job in jobs if isinstance(job, SamplingJob) and job.rows)
        return self.decode_s(draw for draw in draws if draw.codes_drawn + 1 >= draw.min_codes)

    def would_delay(self, job: SamplingJob, active: Iterable[SamplingJob]) -> bool:
        """Whether those that have not reached their floor would miss it if this one joined them."""
        turn_s = self.iteration_s(job)
        return any(
            self.job_slack_s(other, turn_s) < 0
            for other in active
            if other.codes_drawn < other.min_codes
        )

    def count_urgent(self, active: Sequence[SamplingJob], others_s: float) -> int:
        """How many of them must be decoded now, nearest deadline first: up to the last one that
        would be late if there were another turn, nobody gets one.

        Args:
            active: by due time.
            others_s: what comes before them in any case.
        """
        ready_s = self._clock() + self.iteration_s() + others_s
        delays_s = {name: self._tail_delay_s(name) for name in self._runners}
        count = 0
        for i, draw in enumerate(active):
            ready_s += self.decode_s([draw])
            if ready_s + delays_s[draw.model] > draw.data_due:
                count = i + 1
        return count

    def is_urgent(self, job: SamplingJob) -> bool:
        """Whether one that waits must be decoded after the next turn."""
        return self.job_slack_s(job, 0) < 2 * self.iteration_s() + self._tail_delay_s(job.model)

    def _tail_delay_s(self, model: str) -> float:
        """What is to be provided for beyond what the end of a draw takes as a rule: the model may
        be late, and the response as well."""
        return self._runners[model].costs.tail_delay_s + self.response_costs.tail_delay_s

    def client_shares(self, waiting: Sequence[Job]) -> dict[str, float]:
        """The share of its extra codes that a client's draws may have; empty where nothing waits,
        and all may have all."""
        if not waiting:
            return {}
        now = self._clock()
        left_s = sum(max(0.0, job.data_due - now) for job in waiting) / len(waiting)
        within_s = max(QUEUE_TIME_SHARE * left_s, 1e-6)
        claims = [self._job_cost(job, job.data_due - now) for job in waiting]
        return max_min_fair_shares(self._demands.current(now), claims, within_s)

    def lateness_s(self, candidate: Job, others: Sequence[Job]) -> float:
        """By how much floors come late if a newcomer is taken in; 0 or less if they do not."""
        now = self._clock()
        claims = [
            self._job_cost(job, ADMISSION_TIME_SHARE * (job.data_due - now)) for job in others
        ]
        new = self._job_cost(candidate, ADMISSION_TIME_SHARE * (candidate.data_due - now))
        self._job_work.pop(candidate, None)  # if it is refused, nothing else would forget it
        own = [claim for claim in claims if claim.client == candidate.client]
        speed = self._demands.guaranteed_speed(candidate.client, now)
        # It comes in the middle of a turn, and has to wait for that one's end at least.
        turn_s = self.iteration_s() + self.pending_decode_s(others)
        late_s = (
            max(
                max_lateness_s(claims, new, TARGET_UTILISATION),
                max_lateness_s(own, new, TARGET_UTILISATION * speed),
            )
            + turn_s
        )
        if isinstance(
            candidate, SamplingJob
        ):  # one code comes after the other, however idle the machine
            turn_s = self._runners[candidate.model].step_alone_s(candidate)
            late_s = max(late_s, -self.job_slack_s(candidate, turn_s))
        return late_s

    def record_demand(self, job: Job) -> None:
        """A client asks for something."""
        self._demands.record(self._job_cost(job, 0.0), self._clock())

    def min_slack_s(self, jobs: Iterable[Job]) -> float:
        """Time that none of the draws among them needs now."""
        now, turn_s, needed_s, slack_s = self._clock(), self.iteration_s(), 0.0, math.inf
        draws = [job for job in jobs if isinstance(job, SamplingJob)]
        for draw in sorted(draws, key=lambda draw: draw.data_due):
            needed_s += self._job_cost(draw, 0.0).min_s
            slack_s = min(slack_s, draw.data_due - now - turn_s - needed_s)
        return slack_s

    def clear_cached_work(self) -> None:
        """What jobs need is looked up again: some have had a code since."""
        self._job_work.clear()

    def _job_cost(self, job: Job, due_in_s: float) -> JobCost:
        if job not in self._job_work:
            if isinstance(job, CodecJob):
                self._job_work[job] = self.codec_costs.remaining_s(job), 0.0
            else:
                assert isinstance(job, SamplingJob)
                self._job_work[job] = self._runners[job.model].remaining_work_s(job)
        return JobCost(job.client, *self._job_work[job], due_in_s)


STALE_S = 0.1
"""A pause: estimates were confirmed longer ago than this."""
_PROBATION_ITERATIONS = 3
"""That put them right, see `costs.Drift`."""
_MAX_PROBATION_JOBS = 4
"""More than these at once are not taken on trial."""


class Probation:
    """Whether there is one.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._confirmed_at = -math.inf  # when something was seen of what work takes
        self._iterations = 0  # since then without a pause

    def admits(self, num_jobs: int) -> bool:
        """Whether a job is taken in that does not fit by the estimates.

        Args:
            num_jobs: how many jobs there are already.
        """
        if self._clock() - self._confirmed_at > STALE_S:
            self._iterations = 0
        return self._iterations < _PROBATION_ITERATIONS and num_jobs < _MAX_PROBATION_JOBS

    def end_iteration(self) -> bool:
        """Take note of a turn with steps; whether the trial is over with it."""
        self._confirmed_at = self._clock()
        self._iterations += 1
        return self._iterations == _PROBATION_ITERATIONS
