"""What will be in time and what will not, by what work takes here and now."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from anytime_ar.serving.control import USED, Claim, Demands, share_out, shortage_s
from anytime_ar.serving.costs import Responses
from anytime_ar.serving.jobs import Draw, Job, Task
from anytime_ar.serving.lane import Lane
from anytime_ar.serving.tasks import TaskCosts

PATIENCE = 0.5
"""The share of the time that waiting draws have in which they should be gone: the rest is kept for
those who come later."""
PLANNED = 0.9
"""The share of the time that jobs have in which their floors have to fit: a queue as long as
promises allow is served at the last moment, where nothing must go wrong."""


class Outlook:
    """Judges what is drawn and what waits, and remembers what it learns; changes neither.

    Args:
        lanes: of the models, by name.
        clock: the engine's.
    """

    def __init__(self, lanes: Mapping[str, Lane], clock: Callable[[], float]) -> None:
        self._lanes, self._clock = lanes, clock
        self.tasks = TaskCosts(lanes)
        self.responses = Responses()
        self._demands = Demands()
        self._needs: dict[Job, tuple[float, float]] = {}  # for one turn

    def turn_s(self, newcomer: Draw | None = None) -> float:
        """What a code of all that is drawn takes, with one more draw if that is given."""
        return sum(
            lane.step_s(newcomer if newcomer is not None and newcomer.model == lane.name else None)
            for lane in self._lanes.values()
        )

    def spare_s(self, draw: Draw, turn_s: float) -> float:
        """What is left of a draw's time after its floor, at so much for a code."""
        codes = max(0, draw.floor - draw.drawn)
        return draw.due - self._clock() - codes * turn_s - self.decode_s([draw])

    def decode_s(self, draws: Iterable[Draw]) -> float:
        """What it takes to decode them."""
        return sum(self._lanes[draw.model].costs.decode_s(draw.samples) for draw in draws)

    def ending_s(self, jobs: Iterable[Job]) -> float:
        """What it takes to decode those that may leave after the next code."""
        draws = (job for job in jobs if isinstance(job, Draw) and job.rows)
        return self.decode_s(draw for draw in draws if draw.drawn + 1 >= draw.floor)

    def would_hurt(self, draw: Draw, active: Iterable[Draw]) -> bool:
        """Whether those that have not reached their floor would miss it if this one joined them."""
        turn_s = self.turn_s(draw)
        return any(self.spare_s(other, turn_s) < 0 for other in active if other.drawn < other.floor)

    def in_a_hurry(self, active: Sequence[Draw], others_s: float) -> int:
        """How many of them must be decoded now, nearest deadline first: up to the last one that
        would be late if there were another turn, nobody gets one.

        Args:
            active: by due time.
            others_s: what comes before them in any case.
        """
        ready_s = self._clock() + self.turn_s() + others_s
        delays_s = {name: self._delay_s(name) for name in self._lanes}
        count = 0
        for i, draw in enumerate(active):
            ready_s += self.decode_s([draw])
            if ready_s + delays_s[draw.model] > draw.due:
                count = i + 1
        return count

    def cannot_wait(self, draw: Draw) -> bool:
        """Whether one that waits must be decoded after the next turn."""
        return self.spare_s(draw, 0) < 2 * self.turn_s() + self._delay_s(draw.model)

    def _delay_s(self, model: str) -> float:
        """What is to be provided for beyond what the end of a draw takes as a rule: the model may
        be late, and the response as well."""
        return self._lanes[model].costs.delay_s + self.responses.delay_s

    def shares(self, waiting: Sequence[Job]) -> dict[str, float]:
        """The share of its extra codes that a client's draws may have; empty where nothing waits,
        and all may have all."""
        if not waiting:
            return {}
        now = self._clock()
        left_s = sum(max(0.0, job.due - now) for job in waiting) / len(waiting)
        within_s = max(PATIENCE * left_s, 1e-6)
        claims = [self._claim(job, job.due - now) for job in waiting]
        return share_out(self._demands.at(now), claims, within_s)

    def shortage_s(self, newcomer: Job, others: Sequence[Job]) -> float:
        """By how much floors come late if a newcomer is taken in; 0 or less if they do not."""
        now = self._clock()
        claims = [self._claim(job, PLANNED * (job.due - now)) for job in others]
        new = self._claim(newcomer, PLANNED * (newcomer.due - now))
        self._needs.pop(newcomer, None)  # if it is refused, nothing else would forget it
        own = [claim for claim in claims if claim.client == newcomer.client]
        speed = self._demands.speed_for(newcomer.client, now)
        # It comes in the middle of a turn, and has to wait for that one's end at least.
        turn_s = self.turn_s() + self.ending_s(others)
        late_s = max(shortage_s(claims, new, USED), shortage_s(own, new, USED * speed)) + turn_s
        if isinstance(newcomer, Draw):  # one code comes after the other, however idle the machine
            turn_s = self._lanes[newcomer.model].alone_s(newcomer)
            late_s = max(late_s, -self.spare_s(newcomer, turn_s))
        return late_s

    def note(self, job: Job) -> None:
        """A client asks for something."""
        self._demands.note(self._claim(job, 0.0), self._clock())

    def slack_s(self, jobs: Iterable[Job]) -> float:
        """Time that none of the draws among them needs now."""
        now, turn_s, needed_s, slack_s = self._clock(), self.turn_s(), 0.0, math.inf
        draws = [job for job in jobs if isinstance(job, Draw)]
        for draw in sorted(draws, key=lambda draw: draw.due):
            needed_s += self._claim(draw, 0.0).least_s
            slack_s = min(slack_s, draw.due - now - turn_s - needed_s)
        return slack_s

    def forget(self) -> None:
        """What jobs need is looked up again: some have had a code since."""
        self._needs.clear()

    def _claim(self, job: Job, due_s: float) -> Claim:
        if job not in self._needs:
            if isinstance(job, Task):
                self._needs[job] = self.tasks.seconds(job), 0.0
            else:
                assert isinstance(job, Draw)
                self._needs[job] = self._lanes[job.model].needs(job)
        return Claim(job.client, *self._needs[job], due_s)
