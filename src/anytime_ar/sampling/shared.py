"""Draws that share their steps: each with its own budget, labels, seed and settings.

A draw joins between any two steps, leaves when its budget ends, and gets what it would get alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.sampling.batch import DecodeBatch
from anytime_ar.sampling.budget import Budget, Limit
from anytime_ar.sampling.costs import Costs, Pace
from anytime_ar.sampling.draw import Stop, why_stop
from anytime_ar.sampling.engine import Engine
from anytime_ar.sampling.plan import Plan


@dataclass(frozen=True)
class Finished:
    """A draw that has left the batch."""

    ticket: int
    """What `join` returned for it."""
    codes: Tensor
    """int64 [n, k]."""
    data: Tensor
    """float32 [n, *sample_shape] in [-1, 1]."""
    stopped_by: Stop
    """Why it ended."""
    elapsed_s: float
    """Seconds since it joined."""


@dataclass(frozen=True)
class _Draw:
    rows: list[int]
    limit: Limit
    begin: float

    @property
    def urgency(self) -> float:
        """Those with the least are decoded first."""
        return math.inf if self.limit.deadline is None else self.limit.deadline


class SharedDraws:
    """A batch that draws join and leave.

    Args:
        engine: draws, decodes, and tells the time.
        capacity: how many samples may be drawn at once; guided ones count twice.
        like: makes a plan of n samples, to time steps of this size for deadlines.
    """

    def __init__(self, engine: Engine, capacity: int, like: Callable[[int], Plan]) -> None:
        self._engine, self._like = engine, like
        self._batch = DecodeBatch(engine.decoder, capacity)
        self._pace: Pace | None = None  # with the first deadline
        self._draws: dict[int, _Draw] = {}
        self._next_ticket = 0

    @property
    def room(self) -> int:
        """How many more samples may join; guided ones count twice."""
        return self._batch.room

    def __len__(self) -> int:
        """How many draws are under way."""
        return len(self._draws)

    def join(self, plan: Plan, budget: Budget) -> int:
        """Take in a draw; its time begins now.

        Returns:
            A ticket, by which it is known when it is finished.

        Raises:
            InputError: there is no room, the model does not allow the budget, or the deadline
                leaves no time for `min_codes` steps of a full batch.
        """
        begin = self._engine.clock()
        limit = self._engine.limit(budget)
        if budget.deadline_s is not None:
            if self._pace is None:
                like = partial(self._like, self._batch.capacity)
                self._pace = Pace(self._engine.warm_up(like))
                begin = self._engine.clock()  # as a single draw's clock, it starts after this
            self._engine.check_deadline(
                budget.deadline_s, limit.min_codes, self._pace.costs, self._batch.capacity
            )
            limit = replace(limit, deadline=begin + budget.deadline_s)
        rows = self._batch.join(plan.noise, plan.labels, plan.choice)
        ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
        self._draws[ticket] = _Draw(rows, limit, begin)
        return ticket

    def step(self) -> list[Finished]:
        """Draw the next code of every sample and decode what is finished, next deadline first.

        Raises:
            InputError: nothing has joined.
        """
        if not self._draws:
            raise InputError("there is nothing to draw; let a draw join first")
        clock, pace = self._engine.clock, self._pace or Pace(Costs())
        begin = clock()
        self._batch.step()
        pace.stepped(clock() - begin)
        finished = []
        in_a_hurry_first = sorted(self._draws.items(), key=lambda item: item[1].urgency)
        for ticket, draw in in_a_hurry_first:
            drawn = self._batch.drawn(draw.rows[0])
            stop = why_stop(self._batch, drawn, draw.limit, clock, pace)
            if stop is not None:
                finished.append(self._finish(ticket, draw, stop, pace))
        return finished

    def _finish(self, ticket: int, draw: _Draw, stop: Stop, pace: Pace) -> Finished:
        codes = self._batch.codes(draw.rows)
        self._batch.leave(draw.rows)
        del self._draws[ticket]
        begin = self._engine.clock()
        data = self._engine.decode(codes)
        pace.finished(self._engine.clock() - begin)
        return Finished(ticket, codes, data, stop, self._engine.clock() - draw.begin)
