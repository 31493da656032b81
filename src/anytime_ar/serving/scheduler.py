"""Who is drawn, and for how long: continuous batching with budgets that bend.

`Scheduler.turn` is the whole of it: let in what waits, nearest deadline first; draw one code of
everything that is in; let out what has its codes, and under load also what has its share of them,
or must be decoded now to be in time. A draw promises at least its floor; it is refused when it
arrives if that promise cannot be kept, and only then. Nothing here waits or knows about threads, so
that tests turn it by hand under a clock of their own.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping

from anytime_ar.serving.control import Policy
from anytime_ar.serving.jobs import (
    Done,
    Draw,
    Job,
    Look,
    Refused,
    StopReason,
    Task,
    overloaded,
    too_late,
)
from anytime_ar.serving.lane import Lane
from anytime_ar.serving.outlook import Outlook
from anytime_ar.serving.trial import Trial


class Scheduler:
    """Draws for many at once.

    Args:
        lanes: of the models, by name.
        clock: gives seconds.
        policy: what gives way.
    """

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        clock: Callable[[], float],
        *,
        policy: Policy = "elastic",
    ) -> None:
        self.lanes, self.clock, self.policy = dict(lanes), clock, policy
        self.outlook = Outlook(self.lanes, clock)
        self.waiting: list[Job] = []
        self.draining = False
        self._trial = Trial(clock)
        self._stopped: dict[Draw, StopReason] = {}  # in this turn, and not delivered yet
        self._turned: float | None = None  # when the last turn ended, if it left something

    @property
    def active(self) -> list[Draw]:
        """All that is being drawn, nearest deadline first."""
        draws = [draw for lane in self.lanes.values() for draw in lane.active]
        return sorted(draws, key=lambda draw: draw.due)

    @property
    def jobs(self) -> list[Job]:
        """All that waits or is drawn."""
        return [*self.waiting, *self.active]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not any(lane.active for lane in self.lanes.values())

    def warm_up(self) -> None:
        """Find out what work takes here, before there is any."""
        for lane in self.lanes.values():
            lane.measure()

    def submit(self, job: Job) -> None:
        """Take a job in.

        Raises:
            Refused: its floor does not fit, or the server is going down.
        """
        if self.draining:
            raise Refused("draining", "the server is going down; ask another one", retry_s=1)
        job.due = job.deadline - self.outlook.responses.usual_s(job.samples)
        if self.policy != "elastic" and isinstance(job, Draw):
            job.floor = job.cap
            if self.policy == "fixed":
                job.due = math.inf
        self.outlook.note(job)
        others = self.jobs
        shortage_s = self.outlook.shortage_s(job, others)
        job.on_trial = shortage_s > 0
        if job.on_trial and not self._trial.admits(len(others)):
            raise overloaded(shortage_s)
        self._wait(job)

    def drain(self, until: float) -> None:
        """Take in nothing more, and be done with all there is at a time."""
        self.draining = True
        for job in self.jobs:
            job.due, job.deadline = min(job.due, until), min(job.deadline, until)
        self.waiting.sort(key=lambda job: job.due)

    def turn(self) -> None:
        """Draw one more code of everything that is in, and deliver what is finished."""
        # What was taken in since the last turn belongs to this one.
        begin = self.clock() if self._turned is None else self._turned
        busy_s = self._busy_s()
        self.outlook.forget()
        self._drop()
        self._let_in()
        stepping = [lane for lane in self.lanes.values() if lane.active]
        for lane in stepping:
            lane.step()
        if stepping and self._trial.ends():
            self._judge()
        self._let_out()
        self._show()
        now = self.clock()
        self._turned = None if self.idle else now
        around_s = now - begin - (self._busy_s() - busy_s)
        for lane in stepping:
            lane.costs.turned(around_s / len(stepping))

    def _busy_s(self) -> float:
        return sum(lane.busy_s for lane in self.lanes.values()) + self.outlook.tasks.busy_s

    def lose_all(self) -> None:
        """Give up all jobs, after a failure, and begin afresh."""
        lost = dict.fromkeys([*self.jobs, *self._stopped])
        self.waiting, self._stopped = [], {}
        for lane in self.lanes.values():
            lane.reset()
        for job in lost:
            job.listener(Refused("broken", "the model failed; the server's log says how"))

    def probe(self) -> None:
        """Find out whether models work, and how fast, while there is nothing to do."""
        for lane in self.lanes.values():
            lane.probe()

    def _judge(self) -> None:
        """Those that were taken in on trial, by estimates that have been put right."""
        for job in [job for job in self.jobs if job.on_trial]:
            job.on_trial = False
            if isinstance(job, Draw) and job.drawn >= job.floor:
                continue
            shortage_s = self.outlook.shortage_s(job, [o for o in self.jobs if o is not job])
            if shortage_s > 0:
                self._put_out(job)
                job.listener(overloaded(shortage_s))

    def _put_out(self, job: Job) -> None:
        """Of the batch, or of what waits."""
        if isinstance(job, Draw) and job.rows:
            self.lanes[job.model].leave(job)
        else:
            self.waiting.remove(job)

    def _wait(self, job: Job) -> None:
        bisect.insort(self.waiting, job, key=lambda waiting: waiting.due)

    def _drop(self) -> None:
        """What need not or cannot be drawn any more."""
        now = self.clock()
        for job in list(self.waiting):
            drawn = job if isinstance(job, Draw) and job.drawn else None
            stop: StopReason | None = None
            if job.cancelled:
                stop = "cancelled"
            elif drawn and drawn.drawn >= drawn.cap:  # it came back with all that it asks for
                stop = "complete"
            elif drawn and drawn.drawn >= drawn.floor and self.outlook.cannot_wait(drawn):
                stop = "load"
            elif now <= job.deadline or math.isinf(job.due):
                continue
            self.waiting.remove(job)
            if drawn and stop:
                self._stopped[drawn] = stop
            elif stop:
                job.listener(Refused("cancelled", "it was stopped before its first code"))
            else:
                job.listener(too_late(draining=self.draining))

    def _let_in(self) -> None:
        full: set[str] = set()
        for job in list(self.waiting):
            if isinstance(job, Task):
                self._compute(job)
            elif job.model not in full:
                assert isinstance(job, Draw)
                if self._must_join(job):
                    self._make_room(job)
                if self._may_join(job):
                    self.waiting.remove(job)
                    self.lanes[job.model].join(job)
                else:
                    full.add(job.model)  # those behind it do not overtake

    def _may_join(self, draw: Draw) -> bool:
        """Whether there is room, and nobody else is late for it."""
        room = self.lanes[draw.model].has_room(draw)
        return room and not self.outlook.would_hurt(draw, self.active)

    def _must_join(self, draw: Draw) -> bool:
        """Whether it is late for its floor if it waits for some more turns."""
        turn_s = self.outlook.turn_s()
        ending_s = self.outlook.ending_s(self.active)
        return self.outlook.spare_s(draw, turn_s) < 2 * turn_s + ending_s

    def _make_room(self, draw: Draw) -> None:
        """Let others out until a draw comes in time: those that have their floor, who has most of
        its share first; then, to be continued later, those that have more time."""

        def enough() -> bool:
            spare_s = self.outlook.spare_s(draw, self.outlook.turn_s(draw))
            return spare_s >= 0 and self._may_join(draw)

        shares = self.outlook.shares(self.waiting)

        def ahead(other: Draw) -> float:
            """By how much of its extra codes it is beyond its share."""
            return other.progress - shares.get(other.client, 1.0)

        served = [other for other in self.active if other.drawn >= other.floor]
        for other in sorted(served, key=ahead, reverse=True):
            if enough():
                return
            # Decoded with the rest, nearest deadline first: now, they would all wait for it.
            self.lanes[other.model].leave(other)
            self._stopped[other] = "load"
        for other in reversed(self.active):
            if other.due <= draw.due or enough():
                return
            self.lanes[other.model].leave(other)
            self._wait(other)

    def _compute(self, task: Task) -> None:
        """One part of a task, if nobody has to wait for it, or it cannot wait."""
        costs = self.outlook.tasks
        urgent = self.clock() + costs.seconds(task) + self.outlook.turn_s() > task.due
        if not urgent and self.outlook.slack_s(self.jobs) < costs.part_s(task):
            return
        computed = costs.compute(task, self.clock)
        if computed is not None:
            self.waiting.remove(task)
            task.listener(computed)

    def _let_out(self) -> None:
        now, active = self.clock(), self.active
        shares = self.outlook.shares(self.waiting)
        going: list[Draw] = []
        for draw in active:
            stop = draw.why_stop(shares.get(draw.client, 1.0))
            if stop is not None:
                self._stopped[draw] = stop
            elif now > draw.deadline and math.isfinite(draw.due):
                self._put_out(draw)
                draw.listener(too_late(draining=self.draining))
            else:
                going.append(draw)
        decode_s = self.outlook.decode_s(self._stopped)
        hurried = going[: self.outlook.in_a_hurry(going, decode_s)]
        stop = "drain" if self.draining else "deadline"
        self._stopped |= {draw: stop for draw in hurried if draw.drawn >= draw.floor}
        self._finish()

    def _finish(self) -> None:
        """Decode and deliver what has stopped, nearest deadline first."""
        stopped, ending = self.clock(), sorted(self._stopped, key=lambda draw: draw.due)
        for lane in self.lanes.values():
            own = [draw for draw in ending if draw.model == lane.name]
            for draw in own:
                if draw.rows:
                    lane.leave(draw)
            for draw, codes, data, decode_s in lane.decode(own):
                joined = stopped if draw.joined is None else draw.joined
                queue_s, sampling_s = joined - draw.arrival, stopped - joined
                at, stop = self.clock(), self._stopped.pop(draw)
                draw.listener(Done(codes, data, stop, queue_s, sampling_s, decode_s, at))

    def _show(self) -> None:
        """Looks, where they are due and nobody waits; the first one always, if there is time."""
        now = self.clock()
        for draw in self.active:
            if math.isinf(draw.look_every_s) or now - draw.looked < draw.look_every_s:
                continue
            lane, first = self.lanes[draw.model], math.isinf(draw.looked)
            busy = bool(self.waiting) and not first
            if busy or self.outlook.slack_s(self.jobs) < lane.costs.decode_s(draw.samples):
                return
            draw.looked = now
            for _, codes, data, _ in lane.decode([draw]):
                draw.listener(Look(codes, data))
