"""Which replica takes a request: the one that is soonest done with what it has."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Protocol

from anytime_ar.sampling.cost_model import LatencyWindow
from anytime_ar.serving.cluster.replica import (
    RETRY_ON_OTHER_REPLICA,
    Caller,
    RemoteError,
    ReplicaReply,
    ReplicaState,
)
from anytime_ar.serving.engine.jobs import RequestContext
from anytime_ar.serving.engine.scheduler import ModelStats
from anytime_ar.serving.logs import log_event

REPLICA_TIMEOUT_S = 2.0
"""A replica that has told nothing for this long is not counted on."""


@dataclass
class _ReplicaLoad:
    """What is known of a replica."""

    state: ReplicaState | None = None
    reported_at: float = 0.0
    """When that was."""
    in_flight: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Of calls under way: when they were sent, and the seconds of the machine that they take."""
    last_chosen: int = 0
    """When it was chosen last, in calls."""


class LoadBalancer:
    """Remembers what replicas tell of themselves, and what they were sent since.

    Seconds of work count, not requests: one may be sixteen samples in full and the other a code,
    and machines may differ.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._loads: dict[str, _ReplicaLoad] = {}
        self._count = 0

    def report(self, replica: str, state: ReplicaState) -> None:
        """Take note of how a replica is."""
        place = self._loads.setdefault(replica, _ReplicaLoad())
        place.state, place.reported_at = state, self._clock()

    def retain(self, running: Collection[str]) -> None:
        """Forget all others."""
        self._loads = {name: place for name, place in self._loads.items() if name in running}

    def state(self, replica: str) -> ReplicaState | None:
        """What a replica has told lately; None: nothing."""
        return self._loads[replica].state if self.silence_s(replica) <= REPLICA_TIMEOUT_S else None

    def start_call(self, replica: str, work_s: float) -> int:
        """A call is sent, of so much work; gives the number by which it is taken back."""
        self._count += 1
        place = self._loads.setdefault(replica, _ReplicaLoad())
        place.in_flight[self._count], place.last_chosen = (self._clock(), work_s), self._count
        return self._count

    def end_call(self, replica: str, call_id: int) -> None:
        """A call has ended."""
        if replica in self._loads:
            self._loads[replica].in_flight.pop(call_id, None)

    def wait_s(self, replica: str) -> float:
        """What a replica still has to do, as far as is known."""
        place, now = self._loads.get(replica, _ReplicaLoad()), self._clock()
        since = [(at, work_s) for at, work_s in place.in_flight.values() if at >= place.reported_at]
        begun = (
            place.reported_at
            if place.state is not None
            else min((at for at, _ in since), default=now)
        )
        work_s = 0.0 if place.state is None else place.state.backlog_s
        return max(0.0, work_s + sum(work_s for _, work_s in since) - (now - begun))

    def choose(self, among: Collection[str]) -> str | None:
        """The one with the least to do, of equals the one that was chosen least lately, of those
        the first by name; None: there is none."""

        def rank(replica: str) -> tuple[bool, float, int, str]:
            state = self.state(replica)
            chosen = self._loads.get(replica, _ReplicaLoad()).last_chosen
            waits = round(self.wait_s(replica), 3)
            return state is None or not state.ready, waits, chosen, replica

        return min(among, key=rank, default=None)

    def silence_s(self, replica: str) -> float:
        """For how long a replica has told nothing; infinite: it never did."""
        place = self._loads.get(replica, _ReplicaLoad())
        return math.inf if place.state is None else self._clock() - place.reported_at

    def sample_s(self, model: str | None) -> float:
        """What a sample of a model takes in full, of whichever replica said so last; None: of the
        usual model."""
        for place in sorted(self._loads.values(), key=lambda place: -place.reported_at):
            if place.state is not None and place.state.stats:
                work = place.state.stats
                one = work.get(model) if model is not None else next(iter(work.values()))
                return 0.0 if one is None else one.sample_s
        return 0.0


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
