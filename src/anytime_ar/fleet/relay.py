"""Calls to replicas, until one of them has answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing, suppress
from typing import Protocol

from anytime_ar.fleet.messages import RETRY_ON_OTHER_REPLICA, Caller, RemoteError, ReplicaReply
from anytime_ar.fleet.places import REPLICA_TIMEOUT_S, LoadBalancer
from anytime_ar.sampling.costs import LatencyWindow
from anytime_ar.serving.call import RequestContext
from anytime_ar.serving.logs import log_event
from anytime_ar.serving.occupancy import ModelStats

_STATE_POLL_S = 0.5
"""Between two looks at a replica."""
_INITIAL_NETWORK_S = 0.005
_NETWORK_QUANTILE = 0.99
"""The share of answers whose way is provided for."""
_NETWORK_HOPS = 2
"""Between client and replica: the front stands between two of about the same length."""


class ReplicaLostError(Exception):
    """A replica has gone, or tells nothing any more."""


class ReplicaPool(Protocol):
    """Reaches replicas."""

    def running(self) -> frozenset[str]:
        """Names of those that take calls."""

    def call(
        self, replica: str | None, method: str, *arguments: object
    ) -> AsyncGenerator[ReplicaReply]:
        """Call a method of one; None: of any, as soon as there is one. Closing the generator gives
        the call up.

        Raises:
            Lost: at an item: there will be no more.
        """


class Dispatcher:
    """Sends calls where there is most room, and again where they got no answer.

    Args:
        pool: reaches replicas.
        clock: gives seconds.
    """

    def __init__(self, pool: ReplicaPool, clock: Callable[[], float]) -> None:
        self.pool, self._clock = pool, clock
        self.load_balancer = LoadBalancer(clock)
        self._network_s = LatencyWindow([_INITIAL_NETWORK_S])

    @property
    def ready(self) -> bool:
        """Whether a replica takes requests."""
        states = map(self.load_balancer.state, self.pool.running())
        return any(state is not None and state.ready for state in states)

    def stats(self, models: Iterable[str]) -> dict[str, ModelStats]:
        """What goes on in each of some models, on all replicas together."""
        states = [
            state for name in self.pool.running() if (state := self.load_balancer.state(name))
        ]
        return {
            model: _sum_stats([state.stats[model] for state in states if model in state.stats])
            for model in models
        }

    async def dispatch(
        self,
        method: str,
        *arguments: object,
        context: RequestContext,
        work_s: float,
        on_chosen: Callable[[str], None] | None = None,
    ) -> AsyncGenerator[ReplicaReply]:
        """Call one replica after the other, the one with the most room first, until one has
        answered.

        Args:
            method: of a replica.
            arguments: of it, but for the caller, which comes last.
            context: that has to be answered.
            work_s: that it is, in seconds of a machine.
            on_chosen: told the name of the replica.

        Raises:
            Refused: at an item: nobody answers.
        """
        tried: set[str] = set()
        refusals: list[RemoteError] = []
        while True:
            replica = self.load_balancer.choose(self.pool.running() - tried)
            if replica is None:
                raise _soonest_retry(refusals).to_exception()
            tried.add(replica)
            if on_chosen is not None:
                on_chosen(replica)
            number = self.load_balancer.start_call(replica, work_s)
            try:
                async with aclosing(
                    self.call_replica(replica, method, *arguments, context=context)
                ) as telling:
                    async for told in telling:
                        answer = told.payload
                        if (
                            isinstance(answer, RemoteError)
                            and answer.reason in RETRY_ON_OTHER_REPLICA
                        ):
                            refusals.append(answer)
                            break
                        yield told
                    else:
                        return
            except ReplicaLostError as lost:
                log_event("a replica is lost; its call goes to another", reason=str(lost))
            finally:
                self.load_balancer.end_call(replica, number)

    async def call_replica(
        self, replica: str, method: str, *arguments: object, context: RequestContext
    ) -> AsyncGenerator[ReplicaReply]:
        """Call one replica.

        Raises:
            Lost: at an item: it does not answer.
        """
        sent = self._clock()
        elapsed_s = (
            sent - context.arrival + _NETWORK_HOPS * self._network_s.quantile(_NETWORK_QUANTILE)
        )
        caller = Caller(context.client, elapsed_s)
        told: ReplicaReply | None = None
        async with aclosing(self.pool.call(replica, method, *arguments, caller)) as telling:
            while (told := await self._next_reply(telling, replica, sent)) is not None:
                self.load_balancer.report(told.replica, told.state)
                if told.replica_s:
                    self._network_s.add(max(0.0, self._clock() - sent - told.replica_s))
                yield told

    async def _next_reply(
        self, replies: AsyncGenerator[ReplicaReply], replica: str, sent_at: float
    ) -> ReplicaReply | None:
        """What is told next, unless the replica has become silent; None: that was all."""
        pending = asyncio.ensure_future(anext(replies, None))
        try:
            while not (await asyncio.wait({pending}, timeout=_STATE_POLL_S))[0]:
                silent_s = min(self._clock() - sent_at, self.load_balancer.silence_s(replica))
                if silent_s > REPLICA_TIMEOUT_S:
                    raise ReplicaLostError(f"{replica} has told nothing for {silent_s:.1f} s")
            return pending.result()
        finally:
            if not pending.done():
                pending.cancel()
                with suppress(asyncio.CancelledError):
                    await pending

    async def broadcast(self, method: str, *arguments: object) -> None:
        """Call a method of every replica; those that hang are not waited for."""
        running = self.pool.running()
        calls = {asyncio.ensure_future(self._notify(name, method, *arguments)) for name in running}
        if not calls:
            return
        told, hanging = await asyncio.wait(calls, timeout=REPLICA_TIMEOUT_S)
        for call in hanging:
            call.cancel()
        for call in told:
            call.result()

    async def poll_replicas(self) -> None:
        """Look at the replicas again and again: at those that are not asked as well, and at what
        other fronts send them."""
        looking: dict[str, asyncio.Task[None]] = {}
        while True:
            running = self.pool.running()
            self.load_balancer.retain(running)
            for name in running:
                if name not in looking or looking[name].done():  # not twice at one that hangs
                    looking[name] = asyncio.ensure_future(self._notify(name, "report_state"))
            looking = {name: task for name, task in looking.items() if name in running}
            await asyncio.sleep(_STATE_POLL_S)

    async def _notify(self, replica: str, method: str, *arguments: object) -> None:
        with suppress(ReplicaLostError):  # whoever waits for an answer of it hears that
            async for told in self.pool.call(replica, method, *arguments):
                self.load_balancer.report(told.replica, told.state)


def _soonest_retry(refusals: list[RemoteError]) -> RemoteError:
    """The refusal that a client hears who got one from every replica."""
    if not refusals:
        return RemoteError("serving", "no replica answers; try again", "broken", 1.0)
    return min(refusals, key=lambda refusal: refusal.retry_after_s or 0.0)


def _sum_stats(parts: list[ModelStats]) -> ModelStats:
    return ModelStats(
        rows=sum(part.rows for part in parts),
        slots=sum(part.slots for part in parts),
        running=sum(part.running for part in parts),
        waiting=sum(part.waiting for part in parts),
        backlog_s=sum(part.backlog_s for part in parts),
        sample_s=max((part.sample_s for part in parts), default=0.0),
    )
