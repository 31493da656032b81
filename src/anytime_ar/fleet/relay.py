"""Calls to replicas, until one of them has answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing, suppress
from typing import Protocol

from anytime_ar.fleet.messages import ELSEWHERE, Caller, Mistake, Told
from anytime_ar.fleet.places import FRESH_S, Places
from anytime_ar.sampling.costs import Times
from anytime_ar.serving.call import Call
from anytime_ar.serving.logs import log_event
from anytime_ar.serving.occupancy import Occupancy

_LOOK_S = 0.5
"""Between two looks at a replica."""
_FIRST_WAY_S = 0.005
_USUAL = 0.99
"""The share of answers whose way is provided for."""
_WAYS = 2
"""Between client and replica: the front stands between two of about the same length."""


class Lost(Exception):
    """A replica has gone, or tells nothing any more."""


class Crew(Protocol):
    """Reaches replicas."""

    def running(self) -> frozenset[str]:
        """Names of those that take calls."""

    def call(self, replica: str | None, method: str, *arguments: object) -> AsyncGenerator[Told]:
        """Call a method of one; None: of any, as soon as there is one. Closing the generator gives
        the call up.

        Raises:
            Lost: at an item: there will be no more.
        """


class Relay:
    """Sends calls where there is most room, and again where they got no answer.

    Args:
        crew: reaches replicas.
        clock: gives seconds.
    """

    def __init__(self, crew: Crew, clock: Callable[[], float]) -> None:
        self.crew, self._clock = crew, clock
        self.places = Places(clock)
        self._way = Times([_FIRST_WAY_S])

    @property
    def ready(self) -> bool:
        """Whether a replica takes requests."""
        states = map(self.places.state, self.crew.running())
        return any(state is not None and state.ready for state in states)

    def work(self, models: Iterable[str]) -> dict[str, Occupancy]:
        """What goes on in each of some models, on all replicas together."""
        states = [state for name in self.crew.running() if (state := self.places.state(name))]
        return {
            model: _together([state.work[model] for state in states if model in state.work])
            for model in models
        }

    async def ask(
        self,
        method: str,
        *arguments: object,
        call: Call,
        work_s: float,
        chosen: Callable[[str], None] | None = None,
    ) -> AsyncGenerator[Told]:
        """Call one replica after the other, the one with the most room first, until one has
        answered.

        Args:
            method: of a replica.
            arguments: of it, but for the caller, which comes last.
            call: that has to be answered.
            work_s: that it is, in seconds of a machine.
            chosen: told the name of the replica.

        Raises:
            Refused: at an item: nobody answers.
        """
        tried: set[str] = set()
        refusals: list[Mistake] = []
        while True:
            replica = self.places.choose(self.crew.running() - tried)
            if replica is None:
                raise _mildest(refusals).error()
            tried.add(replica)
            if chosen is not None:
                chosen(replica)
            number = self.places.send(replica, work_s)
            try:
                async with aclosing(self.at(replica, method, *arguments, call=call)) as telling:
                    async for told in telling:
                        answer = told.answer
                        if isinstance(answer, Mistake) and answer.reason in ELSEWHERE:
                            refusals.append(answer)
                            break
                        yield told
                    else:
                        return
            except Lost as lost:
                log_event("a replica is lost; its call goes to another", reason=str(lost))
            finally:
                self.places.done(replica, number)

    async def at(
        self, replica: str, method: str, *arguments: object, call: Call
    ) -> AsyncGenerator[Told]:
        """Call one replica.

        Raises:
            Lost: at an item: it does not answer.
        """
        sent = self._clock()
        elapsed_s = sent - call.arrival + _WAYS * self._way.quantile(_USUAL)
        caller = Caller(call.client, elapsed_s)
        told: Told | None = None
        async with aclosing(self.crew.call(replica, method, *arguments, caller)) as telling:
            while (told := await self._next(telling, replica, sent)) is not None:
                self.places.told(told.replica, told.state)
                if told.took_s:
                    self._way.add(max(0.0, self._clock() - sent - told.took_s))
                yield told

    async def _next(self, telling: AsyncGenerator[Told], replica: str, sent: float) -> Told | None:
        """What is told next, unless the replica has become silent; None: that was all."""
        pending = asyncio.ensure_future(anext(telling, None))
        try:
            while not (await asyncio.wait({pending}, timeout=_LOOK_S))[0]:
                silent_s = min(self._clock() - sent, self.places.silent_s(replica))
                if silent_s > FRESH_S:
                    raise Lost(f"{replica} has told nothing for {silent_s:.1f} s")
            return pending.result()
        finally:
            if not pending.done():
                pending.cancel()
                with suppress(asyncio.CancelledError):
                    await pending

    async def tell_all(self, method: str, *arguments: object) -> None:
        """Call a method of every replica; those that hang are not waited for."""
        running = self.crew.running()
        calls = {asyncio.ensure_future(self._tell(name, method, *arguments)) for name in running}
        if not calls:
            return
        told, hanging = await asyncio.wait(calls, timeout=FRESH_S)
        for call in hanging:
            call.cancel()
        for call in told:
            call.result()

    async def watch(self) -> None:
        """Look at the replicas again and again: at those that are not asked as well, and at what
        other fronts send them."""
        looking: dict[str, asyncio.Task[None]] = {}
        while True:
            running = self.crew.running()
            self.places.retain(running)
            for name in running:
                if name not in looking or looking[name].done():  # not twice at one that hangs
                    looking[name] = asyncio.ensure_future(self._tell(name, "look"))
            looking = {name: task for name, task in looking.items() if name in running}
            await asyncio.sleep(_LOOK_S)

    async def _tell(self, replica: str, method: str, *arguments: object) -> None:
        with suppress(Lost):  # whoever waits for an answer of it hears that
            async for told in self.crew.call(replica, method, *arguments):
                self.places.told(told.replica, told.state)


def _mildest(refusals: list[Mistake]) -> Mistake:
    """The refusal that a client hears who got one from every replica."""
    if not refusals:
        return Mistake("refused", "no replica answers; try again", "broken", 1.0)
    return min(refusals, key=lambda refusal: refusal.retry_s or 0.0)


def _together(parts: list[Occupancy]) -> Occupancy:
    return Occupancy(
        rows=sum(part.rows for part in parts),
        slots=sum(part.slots for part in parts),
        draws=sum(part.draws for part in parts),
        waiting=sum(part.waiting for part in parts),
        backlog_s=sum(part.backlog_s for part in parts),
        sample_s=max((part.sample_s for part in parts), default=0.0),
    )
