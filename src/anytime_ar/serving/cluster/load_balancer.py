"""Choose the replica that finishes its work first, and send requests to it."""

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
"""Seconds without a reply after which a replica counts as lost."""


@dataclass
class _ReplicaLoad:
    """The state and the calls in flight of one replica."""

    state: ReplicaState | None = None
    """The last state that the replica reported; None: none yet."""
    reported_at: float = 0.0
    """Time of the last report, on the balancer's clock."""
    in_flight: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Send time and work in machine seconds of each call in flight, by call id."""
    last_chosen: int = 0
    """Number of the last call to the replica, counted over all replicas."""


class LoadBalancer:
    """Least-work load balancing by reported backlogs and the calls sent since.

    It compares seconds of work, not requests: one request may ask for sixteen complete samples and
    another for one code, and machines may differ in speed.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Create a load balancer that knows no replicas."""
        self._clock = clock
        self._loads: dict[str, _ReplicaLoad] = {}
        self._count = 0

    def report(self, replica: str, state: ReplicaState) -> None:
        """Record the state that a replica reports."""
        load = self._loads.setdefault(replica, _ReplicaLoad())
        load.state, load.reported_at = state, self._clock()

    def retain(self, running: Collection[str]) -> None:
        """Forget all replicas except the running ones."""
        self._loads = {name: load for name, load in self._loads.items() if name in running}

    def state(self, replica: str) -> ReplicaState | None:
        """Return the state that a replica reported recently; None: there is none."""
        return self._loads[replica].state if self.silence_s(replica) <= REPLICA_TIMEOUT_S else None

    def start_call(self, replica: str, work_s: float) -> int:
        """Record a call to a replica.

        Args:
            replica: name of the replica.
            work_s: work of the call, in seconds of its machine.

        Returns:
            The call id, which `end_call` takes.
        """
        self._count += 1
        load = self._loads.setdefault(replica, _ReplicaLoad())
        load.in_flight[self._count], load.last_chosen = (self._clock(), work_s), self._count
        return self._count

    def end_call(self, replica: str, call_id: int) -> None:
        """Record that a call has ended."""
        if replica in self._loads:
            self._loads[replica].in_flight.pop(call_id, None)

    def wait_s(self, replica: str) -> float:
        """Return the estimated work left on a replica, in seconds."""
        load, now = self._loads.get(replica, _ReplicaLoad()), self._clock()
        since = [(at, work_s) for at, work_s in load.in_flight.values() if at >= load.reported_at]
        begun = (
            load.reported_at
            if load.state is not None
            else min((at for at, _ in since), default=now)
        )
        work_s = 0.0 if load.state is None else load.state.backlog_s
        return max(0.0, work_s + sum(work_s for _, work_s in since) - (now - begun))

    def choose(self, among: Collection[str]) -> str | None:
        """Return the replica with the least work left; None: there is none.

        Ties go to the replica that was chosen least recently, then to the first by name. Replicas
        that are not ready, or have not reported recently, come last.

        Args:
            among: names of the candidates.
        """

        def rank(replica: str) -> tuple[bool, float, int, str]:
            state = self.state(replica)
            chosen = self._loads.get(replica, _ReplicaLoad()).last_chosen
            waits = round(self.wait_s(replica), 3)
            return state is None or not state.ready, waits, chosen, replica

        return min(among, key=rank, default=None)

    def silence_s(self, replica: str) -> float:
        """Return the seconds since the last report of a replica; infinite: it never reported."""
        load = self._loads.get(replica, _ReplicaLoad())
        return math.inf if load.state is None else self._clock() - load.reported_at

    def sample_s(self, model: str | None) -> float:
        """Return the work of one complete sample, in seconds, by the most recent report.

        Args:
            model: name of the model; None: the default model.

        Returns:
            Seconds; 0 if no replica has reported any.
        """
        for load in sorted(self._loads.values(), key=lambda load: -load.reported_at):
            if load.state is not None and load.state.stats:
                work = load.state.stats
                one = work.get(model) if model is not None else next(iter(work.values()))
                return 0.0 if one is None else one.sample_s
        return 0.0


_STATE_POLL_S = 0.5
"""Seconds between two polls of a replica."""
_INITIAL_NETWORK_S = 0.005
"""Network time to assume before any is measured, in seconds."""
_NETWORK_QUANTILE = 0.99
"""Quantile of the measured network times that deadlines allow for."""
_NETWORK_HOPS = 2
"""Network hops between client and replica. The gateway is between two of about the same length."""


class ReplicaLostError(Exception):
    """Error for a call to a replica that has died or stopped replying."""


class ReplicaPool(Protocol):
    """A way to list running replicas and to call them."""

    def running(self) -> frozenset[str]:
        """Return the names of the replicas that accept calls."""

    def call(
        self, replica: str | None, method: str, *arguments: object
    ) -> AsyncGenerator[ReplicaReply]:
        """Call a method of a replica. Closing the generator cancels the call.

        Args:
            replica: name of the replica; None: any, as soon as one is running.
            method: name of the method.
            arguments: positional arguments of the method.

        Yields:
            Replies of the replica.

        Raises:
            ReplicaLostError: the replica is lost; there are no more replies.
        """


class Dispatcher:
    """Sends calls to the replica with the least work, and retries them on others.

    Args:
        pool: calls the replicas.
        clock: returns the time in seconds.
    """

    def __init__(self, pool: ReplicaPool, clock: Callable[[], float]) -> None:
        """Create a dispatcher with a load balancer of its own."""
        self.pool, self._clock = pool, clock
        self.load_balancer = LoadBalancer(clock)
        self._network_s = LatencyWindow([_INITIAL_NETWORK_S])

    @property
    def ready(self) -> bool:
        """Return whether any replica accepts requests."""
        states = map(self.load_balancer.state, self.pool.running())
        return any(state is not None and state.ready for state in states)

    def stats(self, models: Iterable[str]) -> dict[str, ModelStats]:
        """Return the statistics of each model, summed over all replicas."""
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
        """Call replicas in order of least work until one accepts the call.

        Args:
            method: name of a method of `Replica`.
            arguments: arguments of the method except the caller, which is added last.
            context: context of the request.
            work_s: work of the call, in seconds of a machine.
            on_chosen: called with the name of each replica that is tried.

        Yields:
            Replies of the replica that accepts the call.

        Raises:
            ServingError: no replica accepts the call.
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
                ) as replies:
                    async for reply in replies:
                        payload = reply.payload
                        if (
                            isinstance(payload, RemoteError)
                            and payload.reason in RETRY_ON_OTHER_REPLICA
                        ):
                            refusals.append(payload)
                            break
                        yield reply
                    else:
                        return
            except ReplicaLostError as error:
                log_event("a replica is lost; its call goes to another", reason=str(error))
            finally:
                self.load_balancer.end_call(replica, number)

    async def call_replica(
        self, replica: str, method: str, *arguments: object, context: RequestContext
    ) -> AsyncGenerator[ReplicaReply]:
        """Call a method of one replica and record its state and the network time.

        Args:
            replica: name of the replica.
            method: name of a method of `Replica`.
            arguments: arguments of the method except the caller, which is added last.
            context: context of the request.

        Yields:
            Replies of the replica.

        Raises:
            ReplicaLostError: the replica does not reply.
        """
        sent = self._clock()
        elapsed_s = (
            sent - context.arrival + _NETWORK_HOPS * self._network_s.quantile(_NETWORK_QUANTILE)
        )
        caller = Caller(context.client, elapsed_s)
        reply: ReplicaReply | None = None
        async with aclosing(self.pool.call(replica, method, *arguments, caller)) as replies:
            while (reply := await self._next_reply(replies, replica, sent)) is not None:
                self.load_balancer.report(reply.replica, reply.state)
                if reply.replica_s:
                    self._network_s.add(max(0.0, self._clock() - sent - reply.replica_s))
                yield reply

    async def _next_reply(
        self, replies: AsyncGenerator[ReplicaReply], replica: str, sent_at: float
    ) -> ReplicaReply | None:
        """Return the next reply; None: there are no more.

        Raises:
            ReplicaLostError: the replica has stopped replying.
        """
        pending = asyncio.ensure_future(anext(replies, None))
        try:
            while not (await asyncio.wait({pending}, timeout=_STATE_POLL_S))[0]:
                silent_s = min(self._clock() - sent_at, self.load_balancer.silence_s(replica))
                if silent_s > REPLICA_TIMEOUT_S:
                    raise ReplicaLostError(
                        f"{replica} has not reported its state for {silent_s:.1f} s"
                    )
            return pending.result()
        finally:
            if not pending.done():
                pending.cancel()
                with suppress(asyncio.CancelledError):
                    await pending

    async def broadcast(self, method: str, *arguments: object) -> None:
        """Call a method of every replica; cancel calls that exceed the timeout."""
        running = self.pool.running()
        calls = {asyncio.ensure_future(self._notify(name, method, *arguments)) for name in running}
        if not calls:
            return
        done, hanging = await asyncio.wait(calls, timeout=REPLICA_TIMEOUT_S)
        for call in hanging:
            call.cancel()
        for call in done:
            call.result()

    async def poll_replicas(self) -> None:
        """Poll the state of all replicas until cancelled.

        Polling covers idle replicas, and work that other gateways send to them.
        """
        polls: dict[str, asyncio.Task[None]] = {}
        while True:
            running = self.pool.running()
            self.load_balancer.retain(running)
            for name in running:
                if name not in polls or polls[name].done():  # one poll at a time
                    polls[name] = asyncio.ensure_future(self._notify(name, "report_state"))
            polls = {name: task for name, task in polls.items() if name in running}
            await asyncio.sleep(_STATE_POLL_S)

    async def _notify(self, replica: str, method: str, *arguments: object) -> None:
        """Call a method of a replica and record only the state that it reports."""
        with suppress(ReplicaLostError):  # `call_replica` raises it for calls that wait
            async for reply in self.pool.call(replica, method, *arguments):
                self.load_balancer.report(reply.replica, reply.state)


def _soonest_retry(refusals: list[RemoteError]) -> RemoteError:
    """Return the error for a request that all replicas refused: the one with the shortest wait."""
    if not refusals:
        return RemoteError("serving", "no replica is running; try again later", "broken", 1.0)
    return min(refusals, key=lambda refusal: refusal.retry_after_s or 0.0)


def _sum_stats(parts: list[ModelStats]) -> ModelStats:
    """Return the statistics of one model over several replicas."""
    return ModelStats(
        rows=sum(part.rows for part in parts),
        slots=sum(part.slots for part in parts),
        running=sum(part.running for part in parts),
        waiting=sum(part.waiting for part in parts),
        backlog_s=sum(part.backlog_s for part in parts),
        sample_s=max((part.sample_s for part in parts), default=0.0),
    )
