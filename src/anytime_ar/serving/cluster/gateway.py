"""The HTTP API of a fleet, as an ASGI application."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from anytime_ar.serving.cluster.load_balancer import Dispatcher, ReplicaLostError, ReplicaPool
from anytime_ar.serving.cluster.replica import RemoteError, ReplicaReply
from anytime_ar.serving.config import ServingConfig
from anytime_ar.serving.engine.jobs import RequestContext, ServingError
from anytime_ar.serving.engine.models import unknown_model_error
from anytime_ar.serving.engine.services import (
    SEED_BITS,
    ConflictError,
    in_flight_error,
    unknown_sample_error,
)
from anytime_ar.serving.engine.worker import MAX_PREVIEW_BYTES, EventQueue
from anytime_ar.serving.http.app import build_app
from anytime_ar.serving.http.middleware import (
    AllowedHosts,
    ASGIApp,
    EventLoopLag,
    Receive,
    RequestMiddleware,
    Scope,
    Send,
)
from anytime_ar.serving.http.monitoring import Monitor
from anytime_ar.serving.logs import log_event
from anytime_ar.serving.schema import (
    BudgetParams,
    DecodeRequest,
    DecodeResponse,
    EncodeRequest,
    EncodeResponse,
    ModelList,
    PreviewResponse,
    RefineRequest,
    SampleRequest,
    SampleResponse,
)

_DRAIN_POLL_S = 0.02


class Gateway:
    """Built at its start, as it has to ask a replica what it serves.

    Args:
        pool: reaches replicas.
        config: that they give.
        keys: names of clients by `key_digest` of their keys; None: everyone may come.
        hosts: names that are answered to.
        clock: gives seconds.
    """

    def __init__(
        self,
        pool: ReplicaPool,
        config: ServingConfig,
        keys: Mapping[bytes, str] | None,
        hosts: AllowedHosts,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._pool, self._config, self._clock = pool, config, clock
        self._keys, self._hosts = keys, hosts
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        else:
            assert self._app is not None
            await self._app(scope, receive, send)

    async def drain(self, timeout_s: float) -> None:
        """Take in nothing more, and be done with all there is within some seconds."""
        self._samples.draining = True
        log_event("draining", draws=len(self._samples))
        await self._dispatcher.broadcast("drain", timeout_s)
        until = self._clock() + timeout_s
        while len(self._samples) and self._clock() < until:
            await asyncio.sleep(_DRAIN_POLL_S)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        beside = await self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in beside:
            task.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> list[asyncio.Future[None]]:
        relay = self._dispatcher = Dispatcher(self._pool, self._clock)
        answer = await _describe_models(self._pool, relay)
        names = [model.name for model in answer.models]
        draws = self._samples = GatewaySampleService(relay, self._config, self._clock)
        watch = Monitor(
            lambda: relay.stats(names), lambda: relay.ready and not draws.draining, self._clock
        )
        app = build_app(GatewayModels(answer), draws, GatewayCodecService(relay), watch)
        lag = EventLoopLag(self._clock)
        self._app = RequestMiddleware(
            app,
            keys=self._keys,
            hosts=self._hosts,
            clock=self._clock,
            lag=lag,
            observe=watch.observe,
        )
        return [asyncio.ensure_future(work) for work in (lag.measure(), relay.poll_replicas())]


async def _describe_models(pool: ReplicaPool, dispatcher: Dispatcher) -> ModelList:
    """What the first replica says that it serves."""
    async for told in pool.call(None, "describe"):
        dispatcher.load_balancer.report(told.replica, told.state)
        assert isinstance(told.payload, ModelList)
        return told.payload
    raise AssertionError("a replica describes what it serves")


_OWNER_RETRY_S = 0.01


class GatewayModels:
    """What all replicas serve.

    Args:
        models: of one of them.
    """

    def __init__(self, models: ModelList) -> None:
        self._models = models

    def describe(self) -> ModelList:
        """For clients."""
        return self._models

    def formats(self, name: str | None) -> Sequence[str]:
        """See `anytime_ar.serving.engine.models.Models.formats`."""
        formats = {model.name: model.formats for model in self._models.models}
        name = next(iter(formats)) if name is None else name
        if name not in formats:
            raise unknown_model_error(name, formats)
        return formats[name]


class GatewaySampleService:
    """Draws samples on replicas. What one has drawn is not lost with it: a draw follows from its
    request and its seed, so that another replica draws the same again.

    Args:
        dispatcher: to replicas.
        config: that they give.
        clock: gives seconds.
    """

    def __init__(
        self, dispatcher: Dispatcher, config: ServingConfig, clock: Callable[[], float]
    ) -> None:
        self._dispatcher, self._config, self._clock = dispatcher, config, clock
        self._registry = InFlightRegistry(config.session_ttl_s, clock)
        self.draining = False

    def __len__(self) -> int:
        """How many have not ended."""
        return self._registry.num_in_flight

    def sample(
        self, request: SampleRequest, context: RequestContext
    ) -> AsyncGenerator[PreviewResponse]:
        """See `anytime_ar.serving.engine.services.Draws.sample`; all mistakes but a name that is taken show
        at the first item."""
        seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
        name = request.id or secrets.token_urlsafe(12)
        request = request.model_copy(update={"seed": seed, "id": name})
        if self._registry.get(name) is not None:
            raise ConflictError(f"id {name!r} is taken; choose another one, or none")
        return self._stream_updates(name, SampleRecord(request, context.client), None, context)

    def refine(
        self, sample_id: str, request: RefineRequest, context: RequestContext
    ) -> AsyncGenerator[PreviewResponse]:
        """See `anytime_ar.serving.engine.services.Draws.refine`."""
        held = self._registry.get(sample_id) or SampleRecord(
            None, context.client
        )  # of another front, perhaps
        if held.client != context.client:
            raise unknown_sample_error(sample_id)
        return self._stream_updates(sample_id, held, request, context)

    async def stop(self, sample_id: str, context: RequestContext) -> SampleResponse | None:
        """See `anytime_ar.serving.engine.services.Draws.stop`."""
        while True:
            held = self._registry.get(sample_id)
            if held is not None and held.client != context.client:
                raise unknown_sample_error(sample_id)
            async for told in self._owner_replies(held, "stop", sample_id, context=context):
                answer = _unwrap(told, context)
                self._registry.drop(sample_id)
                assert answer is None or isinstance(answer, SampleResponse)
                return answer
            if held is None or held.expires_at is not None:
                raise unknown_sample_error(sample_id)
            await asyncio.sleep(_OWNER_RETRY_S)  # it is on its way to a replica

    def _max_preview_bytes(self) -> int:
        """Bytes that previews of one draw may take until its client fetches them."""
        return MAX_PREVIEW_BYTES // max(1, len(self))

    async def _stream_updates(
        self,
        sample_id: str,
        record: SampleRecord,
        refine_request: RefineRequest | None,
        context: RequestContext,
    ) -> AsyncGenerator[PreviewResponse]:
        limits = refine_request or record.request
        assert limits is not None
        self._set_deadline(limits, context)
        if self.draining:
            raise ServingError(
                "draining", "the server is going down; ask another one", retry_after_s=1
            )
        if self._registry.get(sample_id) not in (None, record) or self._registry.is_in_flight(
            sample_id
        ):
            raise in_flight_error(sample_id)
        had_ended = record.expires_at is not None
        self._registry.start(sample_id, record)
        answer: SampleResponse | None = None
        shown = 0
        try:
            async with (
                aclosing(
                    self._sample_replies(sample_id, record, refine_request, context)
                ) as telling,
                aclosing(buffer_replies(telling, self._max_preview_bytes)) as ahead,
            ):
                async for told in ahead:
                    drawn = _unwrap(told, context)
                    assert isinstance(drawn, PreviewResponse)
                    if isinstance(drawn, SampleResponse):
                        answer = drawn
                        break
                    if drawn.codes_drawn > shown:  # not again, if another replica began afresh
                        shown = drawn.codes_drawn
                        if context.first_preview_s is None:
                            context.first_preview_s = self._clock() - context.arrival
                        yield drawn
        finally:
            self._registry.finish(sample_id, refinable=had_ended or answer is not None)
        assert answer is not None
        yield answer

    async def _sample_replies(
        self,
        sample_id: str,
        record: SampleRecord,
        refine_request: RefineRequest | None,
        context: RequestContext,
    ) -> AsyncGenerator[ReplicaReply]:
        """What the replica tells that has a draw; if there is none, what another one does that
        draws it from its seed."""
        request = record.request
        if refine_request is not None:
            async for told in self._owner_replies(
                record, "refine", sample_id, refine_request, context=context
            ):
                record.replica = told.replica
                yield told
            if request is None:
                raise unknown_sample_error(sample_id)
            request = request.model_copy(update=dict(refine_request))
        assert request is not None

        def chosen(replica: str) -> None:
            record.replica = replica

        work_s = request.n * self._dispatcher.load_balancer.sample_s(request.model)
        asking = self._dispatcher.dispatch(
            "sample", request, context=context, work_s=work_s, on_chosen=chosen
        )
        async with aclosing(asking):
            async for told in asking:
                record.replica = told.replica
                yield told

    async def _owner_replies(
        self, record: SampleRecord | None, method: str, *arguments: object, context: RequestContext
    ) -> AsyncGenerator[ReplicaReply]:
        """What the replica tells that has a draw; nothing, if none has it."""
        known = None if record is None else record.replica
        for replica in self._dispatcher.pool.running() if known is None else (known,):
            try:
                at = self._dispatcher.call_replica(replica, method, *arguments, context=context)
                async with aclosing(at) as telling:
                    async for told in telling:
                        if (
                            isinstance(told.payload, RemoteError)
                            and told.payload.kind == "not_found"
                        ):
                            break
                        yield told
            except ReplicaLostError as lost:
                log_event("a replica is lost, and the draws that it kept", reason=str(lost))

    def _set_deadline(self, limits: BudgetParams, context: RequestContext) -> None:
        if limits.deadline_ms is not None:
            within_s = min(self._config.deadline_s, limits.deadline_ms / 1000)
            context.deadline = context.arrival + within_s


class GatewayCodecService:
    """Encodes and decodes on replicas.

    Args:
        dispatcher: to them.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def encode(self, request: EncodeRequest, context: RequestContext) -> EncodeResponse:
        """See `anytime_ar.serving.engine.services.Computing.encode`."""
        context.n = len(request.samples)
        answer = await self._dispatch("encode", request, context)
        assert isinstance(answer, EncodeResponse)
        return answer

    async def decode(self, request: DecodeRequest, context: RequestContext) -> DecodeResponse:
        """See `anytime_ar.serving.engine.services.Computing.decode`."""
        context.n = len(request.codes)
        answer = await self._dispatch("decode", request, context)
        assert isinstance(answer, DecodeResponse)
        return answer

    async def _dispatch(
        self, method: str, request: EncodeRequest | DecodeRequest, context: RequestContext
    ) -> object:
        async with aclosing(
            self._dispatcher.dispatch(method, request, context=context, work_s=0.0)
        ) as telling:
            async for told in telling:
                return _unwrap(told, context)
        raise AssertionError("a call ends with an answer or an error")


def _unwrap(reply: ReplicaReply, context: RequestContext) -> object:
    """The answer that was told; what is to be logged of it goes to the call.

    Raises:
        AnytimeError: it is a mistake.
    """
    context.codes_requested, context.stats = reply.codes_requested, reply.stats
    if isinstance(reply.payload, RemoteError):
        raise reply.payload.to_exception()
    if isinstance(reply.payload, PreviewResponse):
        context.model, context.n = reply.payload.model, reply.payload.n
    elif isinstance(reply.payload, EncodeResponse | DecodeResponse):
        context.model = reply.payload.model
    return reply.payload


MAX_REGISTRY_BYTES = 2**27
"""What draws that have ended take, about."""
_RECORD_OVERHEAD_BYTES = 4096
_LABEL_BYTES = 256
"""Bytes of one that a request names, at most."""


@dataclass(eq=False)
class SampleRecord:
    """A draw."""

    request: SampleRequest | None
    """With its seed; None: another front knows it."""
    client: str
    replica: str | None = None
    """That has it."""
    expires_at: float | None = None
    """When it is forgotten; None: it is under way."""

    @property
    def nbytes(self) -> int:
        """What it takes, at most."""
        labels = None if self.request is None else self.request.label
        return _RECORD_OVERHEAD_BYTES + _LABEL_BYTES * (
            len(labels) if isinstance(labels, tuple) else 0
        )


class InFlightRegistry:
    """Draws that are under way, and those that have ended a while ago; of too many, the oldest go
    early.

    Args:
        ttl_s: for which those that have ended are remembered.
        clock: gives seconds.
        max_bytes: what those take together.
    """

    def __init__(
        self, ttl_s: float, clock: Callable[[], float], max_bytes: int = MAX_REGISTRY_BYTES
    ) -> None:
        self._ttl_s, self._clock, self._max_bytes = ttl_s, clock, max_bytes
        self._bytes = 0  # of those that have ended
        self._in_flight: dict[str, SampleRecord] = {}
        self._finished: OrderedDict[str, SampleRecord] = OrderedDict()

    @property
    def num_in_flight(self) -> int:
        """How many have not ended."""
        return len(self._in_flight)

    def get(self, sample_id: str) -> SampleRecord | None:
        """A draw, if it is known."""
        now = self._clock()
        while self._finished:
            oldest = next(iter(self._finished.values()))
            if self._bytes <= self._max_bytes and (oldest.expires_at or 0.0) > now:
                break
            self._bytes -= self._finished.popitem(last=False)[1].nbytes
        return self._in_flight.get(sample_id) or self._finished.get(sample_id)

    def is_in_flight(self, sample_id: str) -> bool:
        """Whether a draw of that name has not ended."""
        return sample_id in self._in_flight

    def start(self, sample_id: str, record: SampleRecord) -> None:
        """A draw is begun, or gone on with."""
        self.drop(sample_id)
        record.expires_at = None
        self._in_flight[sample_id] = record

    def finish(self, sample_id: str, *, refinable: bool) -> None:
        """It has ended, and can be gone on with if it is kept."""
        held = self._in_flight.pop(sample_id)
        if refinable:
            held.expires_at = self._clock() + self._ttl_s
            self._finished[sample_id] = held
            self._bytes += held.nbytes

    def drop(self, sample_id: str) -> None:
        """Forget one that has ended."""
        if sample_id in self._finished:
            self._bytes -= self._finished.pop(sample_id).nbytes


_QueueItem = ReplicaReply | Exception | None


async def buffer_replies(
    replies: AsyncGenerator[ReplicaReply], max_bytes: Callable[[], int]
) -> AsyncGenerator[ReplicaReply]:
    """Give what is told of a draw, without previews that there is no room for.

    Args:
        replies: is read to its end, or until this generator is closed.
        max_bytes: bytes that previews may take that are not fetched.

    Raises:
        Exception: what `replies` raises.
    """
    # The first one in the task of the client, as another task would ask the replica a moment later:
    # who stops the draw by then would find none, and come back when codes are drawn.
    first = await anext(replies, None)
    if first is None:
        return
    box: EventQueue[_QueueItem] = EventQueue(_reply_nbytes, max_bytes)

    async def read() -> None:
        try:
            async for told in replies:
                box.put_nowait(told)
        except Exception as error:  # raised again where the draw is followed
            box.put_nowait(error)
        else:
            box.put_nowait(None)

    reading = asyncio.ensure_future(read())
    try:
        yield first
        while (item := await box.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        await replies.aclose()  # the task may not have begun


def _reply_nbytes(item: _QueueItem) -> int | None:
    """The bytes of a preview; None: it is something else."""
    answer = item.payload if isinstance(item, ReplicaReply) else None
    if not isinstance(answer, PreviewResponse) or isinstance(answer, SampleResponse):
        return None
    return sum(map(len, answer.samples))
