"""The HTTP API of a cluster of replicas, as an ASGI application."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from anytime_ar.errors import InputError
from anytime_ar.prior import SamplingParams
from anytime_ar.serving.cluster.load_balancer import Dispatcher, ReplicaLostError, ReplicaPool
from anytime_ar.serving.cluster.replica import RemoteError, ReplicaReply
from anytime_ar.serving.config import ServingConfig
from anytime_ar.serving.engine.jobs import RequestContext, ServingError
from anytime_ar.serving.engine.models import unknown_model_error
from anytime_ar.serving.engine.sample_service import (
    SEED_BITS,
    ConflictError,
    in_flight_error,
    keep_codes,
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
    VaryParams,
)

_DRAIN_POLL_S = 0.02
"""Seconds between two checks whether all samples have ended."""


class Gateway:
    """An ASGI application that forwards requests to replicas.

    It builds its routes at startup, because it first asks a replica which models it serves.

    Args:
        pool: calls the replicas.
        config: settings that the replicas were given.
        keys: client names by `key_digest` of their API keys; None: every client is accepted.
        hosts: values of the Host header that the gateway accepts.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        pool: ReplicaPool,
        config: ServingConfig,
        keys: Mapping[bytes, str] | None,
        hosts: AllowedHosts,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Create a gateway, which builds its routes at startup."""
        self._pool, self._config, self._clock = pool, config, clock
        self._keys, self._hosts = keys, hosts
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection: the lifespan or a request."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        else:
            assert self._app is not None
            await self._app(scope, receive, send)

    async def drain(self, timeout_s: float) -> None:
        """Refuse new samples and wait until the running ones have ended.

        Args:
            timeout_s: seconds after which it stops waiting.
        """
        self._samples.draining = True
        log_event("draining", requests=len(self._samples))
        await self._dispatcher.broadcast("drain", timeout_s)
        until = self._clock() + timeout_s
        while len(self._samples) and self._clock() < until:
            await asyncio.sleep(_DRAIN_POLL_S)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        background_tasks = await self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in background_tasks:
            task.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> list[asyncio.Future[None]]:
        dispatcher = self._dispatcher = Dispatcher(self._pool, self._clock)
        answer = await _describe_models(self._pool, dispatcher)
        names = [model.name for model in answer.models]
        samples = self._samples = GatewaySampleService(dispatcher, self._config, self._clock)
        monitor = Monitor(
            lambda: dispatcher.stats(names),
            lambda: dispatcher.ready and not samples.draining,
            self._clock,
        )
        app = build_app(GatewayModels(answer), samples, GatewayCodecService(dispatcher), monitor)
        lag = EventLoopLag(self._clock)
        self._app = RequestMiddleware(
            app,
            keys=self._keys,
            hosts=self._hosts,
            clock=self._clock,
            lag=lag,
            observe=monitor.observe,
        )
        return [asyncio.ensure_future(work) for work in (lag.measure(), dispatcher.poll_replicas())]


async def _describe_models(pool: ReplicaPool, dispatcher: Dispatcher) -> ModelList:
    """Return the models that the first replica to reply serves."""
    async for reply in pool.call(None, "describe"):
        dispatcher.load_balancer.report(reply.replica, reply.state)
        assert isinstance(reply.payload, ModelList)
        return reply.payload
    raise AssertionError("a replica replies with the description of its models")


_OWNER_RETRY_S = 0.01
"""Seconds between two searches for the replica of a sample."""


class GatewayModels:
    """The description of the models that all replicas serve.

    Args:
        models: description from one of the replicas.
    """

    def __init__(self, models: ModelList) -> None:
        """Store the description of the models."""
        self._models = models

    def describe(self) -> ModelList:
        """Return the description of the models for clients."""
        return self._models

    def formats(self, name: str | None) -> Sequence[str]:
        """Return the media formats of a model; None: of the default model.

        Raises:
            NotFoundError: no model has this name.
        """
        formats = {model.name: model.formats for model in self._models.models}
        name = next(iter(formats)) if name is None else name
        if name not in formats:
            raise unknown_model_error(name, formats)
        return formats[name]


class GatewaySampleService:
    """Generates samples on replicas and repeats them elsewhere if their replica is lost.

    A sample depends only on its request and its seed, so another replica generates the same one.

    Args:
        dispatcher: sends calls to the replicas.
        config: settings that the replicas were given.
        clock: returns the time in seconds.
    """

    def __init__(
        self, dispatcher: Dispatcher, config: ServingConfig, clock: Callable[[], float]
    ) -> None:
        """Create a service without samples in flight."""
        self._dispatcher, self._config, self._clock = dispatcher, config, clock
        self._registry = InFlightRegistry(config.session_ttl_s, clock)
        self.draining = False

    def __len__(self) -> int:
        """Return the number of samples in flight."""
        return self._registry.num_in_flight

    def sample(
        self, request: SampleRequest, context: RequestContext
    ) -> AsyncGenerator[PreviewResponse]:
        """Generate samples; see `anytime_ar.serving.engine.sample_service.SampleService.sample`.

        Yields:
            Previews, if the request asks for a stream, then the result.

        Raises:
            ConflictError: a sample with this id exists. Other errors are raised at the first item.
        """
        seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
        name = request.id or secrets.token_urlsafe(12)
        request = request.model_copy(update={"seed": seed, "id": name})
        if self._registry.get(name) is not None:
            raise ConflictError(f"id {name!r} is taken; choose another one, or none")
        if request.vary is not None and request.vary.id is not None:
            return self._vary(name, request, request.vary, context)
        return self._stream_updates(name, SampleRecord(request, context.client), None, context)

    async def _vary(
        self, sample_id: str, request: SampleRequest, vary: VaryParams, context: RequestContext
    ) -> AsyncGenerator[PreviewResponse]:
        """Generate variations of ended samples, on any replica.

        The request is completed with the codes to keep, so that it depends on no session any more.
        """
        assert vary.id is not None
        record = self._registry.get(vary.id)
        if record is not None and record.client != context.client:
            raise unknown_sample_error(vary.id)
        if self._registry.is_in_flight(vary.id):
            raise in_flight_error(vary.id)
        resolved: object = None
        async for reply in self._owner_replies(record, "fix_kept_codes", request, context=context):
            resolved = _unwrap(reply, context)
        if resolved is None:
            resolved = await self._draw_kept_codes(request, vary, record, context)
        assert isinstance(resolved, SampleRequest)
        record = SampleRecord(resolved, context.client)
        async with aclosing(self._stream_updates(sample_id, record, None, context)) as updates:
            async for update in updates:
                yield update

    async def _draw_kept_codes(
        self,
        request: SampleRequest,
        vary: VaryParams,
        record: SampleRecord | None,
        context: RequestContext,
    ) -> SampleRequest:
        """Draw the codes to keep again, since the replica that held them is lost."""
        assert vary.id is not None
        if record is None or record.request is None:
            raise unknown_sample_error(vary.id)
        again = record.request.model_copy(
            update={
                "codes": None,
                "min_codes": max(1, vary.keep),
                "quality": None,
                "min_quality": None,
                "deadline_ms": request.deadline_ms,
                "stream": False,
                "with_codes": True,
                "id": None,
            }
        )
        if vary.index >= again.n:
            raise InputError(f"vary.index={vary.index} is outside 0..{again.n - 1}")
        answer: object = None
        async with aclosing(
            self._dispatcher.dispatch("sample", again, context=context, work_s=0.0)
        ) as replies:
            async for reply in replies:
                answer = _unwrap(reply, context)
        assert isinstance(answer, SampleResponse)
        assert answer.codes is not None
        own = {name: getattr(again, name) for name in SamplingParams.model_fields}
        if answer.conditions is not None:
            own["conditions"] = answer.conditions[vary.index]
        request = request.model_copy(
            update={
                "model": answer.model,
                **{name: value for name, value in own.items() if getattr(request, name) is None},
                "label": answer.labels[vary.index]
                if request.label is None and answer.labels is not None
                else request.label,
            }
        )
        return keep_codes(request, vary, answer.codes[vary.index], None, answer.code_length)

    def refine(
        self, sample_id: str, request: RefineRequest, context: RequestContext
    ) -> AsyncGenerator[PreviewResponse]:
        """Refine a sample; see `anytime_ar.serving.engine.sample_service.SampleService.refine`."""
        # A sample that is not known here may have been requested from another gateway.
        record = self._registry.get(sample_id) or SampleRecord(None, context.client)
        if record.client != context.client:
            raise unknown_sample_error(sample_id)
        return self._stream_updates(sample_id, record, request, context)

    async def stop(self, sample_id: str, context: RequestContext) -> SampleResponse | None:
        """Stop a sample; see `anytime_ar.serving.engine.sample_service.SampleService.stop`."""
        while True:
            record = self._registry.get(sample_id)
            if record is not None and record.client != context.client:
                raise unknown_sample_error(sample_id)
            async for reply in self._owner_replies(record, "stop", sample_id, context=context):
                answer = _unwrap(reply, context)
                self._registry.drop(sample_id)
                assert answer is None or isinstance(answer, SampleResponse)
                return answer
            if record is None or record.expires_at is not None:
                raise unknown_sample_error(sample_id)
            await asyncio.sleep(_OWNER_RETRY_S)  # the request is on its way to a replica

    def _max_preview_bytes(self) -> int:
        """Return how many bytes of unread previews one sample may hold."""
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
                "draining", "the server is shutting down; try another server", retry_after_s=1
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
                ) as replies,
                aclosing(buffer_replies(replies, self._max_preview_bytes)) as buffered,
            ):
                async for reply in buffered:
                    drawn = _unwrap(reply, context)
                    assert isinstance(drawn, PreviewResponse)
                    if isinstance(drawn, SampleResponse):
                        answer = drawn
                        break
                    if drawn.codes_drawn > shown:  # another replica may repeat previews
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
        """Yield the replies of the replica that holds a sample.

        If no replica holds it, another replica generates the sample again from its seed.
        """
        request = record.request
        if refine_request is not None:
            async for reply in self._owner_replies(
                record, "refine", sample_id, refine_request, context=context
            ):
                record.replica = reply.replica
                yield reply
            if request is None:
                raise unknown_sample_error(sample_id)
            form = {"format": request.format, "with_codes": request.with_codes}
            asked = {name: value for name, value in refine_request if value is not None}
            request = request.model_copy(update={**dict(refine_request), **form, **asked})
        assert request is not None

        def chosen(replica: str) -> None:
            record.replica = replica

        work_s = request.n * self._dispatcher.load_balancer.sample_s(request.model)
        replies = self._dispatcher.dispatch(
            "sample", request, context=context, work_s=work_s, on_chosen=chosen
        )
        async with aclosing(replies):
            async for reply in replies:
                record.replica = reply.replica
                yield reply

    async def _owner_replies(
        self, record: SampleRecord | None, method: str, *arguments: object, context: RequestContext
    ) -> AsyncGenerator[ReplicaReply]:
        """Yield the replies of the replica that holds a sample; nothing if none holds it."""
        known = None if record is None else record.replica
        for replica in self._dispatcher.pool.running() if known is None else (known,):
            try:
                at = self._dispatcher.call_replica(replica, method, *arguments, context=context)
                async with aclosing(at) as replies:
                    async for reply in replies:
                        if (
                            isinstance(reply.payload, RemoteError)
                            and reply.payload.kind == "not_found"
                        ):
                            break
                        yield reply
            except ReplicaLostError as error:
                log_event("a replica is lost, and its sessions with it", reason=str(error))

    def _set_deadline(self, limits: BudgetParams, context: RequestContext) -> None:
        if limits.deadline_ms is not None:
            deadline_s = min(self._config.deadline_s, limits.deadline_ms / 1000)
            context.deadline = context.arrival + deadline_s


class GatewayCodecService:
    """Encodes and decodes samples on replicas.

    Args:
        dispatcher: sends calls to the replicas.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        """Create a service that calls replicas through a dispatcher."""
        self._dispatcher = dispatcher

    async def encode(self, request: EncodeRequest, context: RequestContext) -> EncodeResponse:
        """Encode samples; see `anytime_ar.serving.engine.codec_service.CodecService.encode`."""
        context.n = len(request.samples)
        answer = await self._dispatch("encode", request, context)
        assert isinstance(answer, EncodeResponse)
        return answer

    async def decode(self, request: DecodeRequest, context: RequestContext) -> DecodeResponse:
        """Decode codes; see `anytime_ar.serving.engine.codec_service.CodecService.decode`."""
        context.n = len(request.codes)
        answer = await self._dispatch("decode", request, context)
        assert isinstance(answer, DecodeResponse)
        return answer

    async def _dispatch(
        self, method: str, request: EncodeRequest | DecodeRequest, context: RequestContext
    ) -> object:
        async with aclosing(
            self._dispatcher.dispatch(method, request, context=context, work_s=0.0)
        ) as replies:
            async for reply in replies:
                return _unwrap(reply, context)
        raise AssertionError("a call ends with a reply or an error")


def _unwrap(reply: ReplicaReply, context: RequestContext) -> object:
    """Return the payload of a reply and copy the logged fields to the request context.

    Raises:
        AnytimeError: the payload is an error.
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
"""Approximate memory limit of the records of ended samples, in bytes."""
_RECORD_OVERHEAD_BYTES = 4096
"""Upper bound on the size of a record without labels, in bytes."""
_LABEL_BYTES = 256
"""Upper bound on the size of one label of a request, in bytes."""


@dataclass(eq=False)
class SampleRecord:
    """What the gateway remembers about one sample."""

    request: SampleRequest | None
    """The request with its seed; None: another gateway received it."""
    client: str
    """Name of the client that sent the request."""
    replica: str | None = None
    """The replica that holds the sample; None: not chosen yet."""
    expires_at: float | None = None
    """Time at which the record is dropped, on the gateway's clock; None: in flight."""

    @property
    def nbytes(self) -> int:
        """Return an upper bound on the memory of the record, in bytes."""
        labels = None if self.request is None else self.request.label
        return _RECORD_OVERHEAD_BYTES + _LABEL_BYTES * (
            len(labels) if isinstance(labels, tuple) else 0
        )


class InFlightRegistry:
    """The samples in flight, and those that ended recently.

    If ended samples exceed the memory limit, the oldest are dropped first.

    Args:
        ttl_s: seconds for which ended samples are remembered.
        clock: returns the time in seconds.
        max_bytes: memory limit of the ended samples, in bytes.
    """

    def __init__(
        self, ttl_s: float, clock: Callable[[], float], max_bytes: int = MAX_REGISTRY_BYTES
    ) -> None:
        """Create a registry without samples."""
        self._ttl_s, self._clock, self._max_bytes = ttl_s, clock, max_bytes
        self._bytes = 0  # of ended samples
        self._in_flight: dict[str, SampleRecord] = {}
        self._finished: OrderedDict[str, SampleRecord] = OrderedDict()

    @property
    def num_in_flight(self) -> int:
        """Return the number of samples in flight."""
        return len(self._in_flight)

    def get(self, sample_id: str) -> SampleRecord | None:
        """Return the record of a sample; None: the id is not known."""
        now = self._clock()
        while self._finished:
            oldest = next(iter(self._finished.values()))
            if self._bytes <= self._max_bytes and (oldest.expires_at or 0.0) > now:
                break
            self._bytes -= self._finished.popitem(last=False)[1].nbytes
        return self._in_flight.get(sample_id) or self._finished.get(sample_id)

    def is_in_flight(self, sample_id: str) -> bool:
        """Return whether the sample of this id is in flight."""
        return sample_id in self._in_flight

    def start(self, sample_id: str, record: SampleRecord) -> None:
        """Record that a sample is started or refined."""
        self.drop(sample_id)
        record.expires_at = None
        self._in_flight[sample_id] = record

    def finish(self, sample_id: str, *, refinable: bool) -> None:
        """Record that a sample has ended.

        Args:
            sample_id: id of a sample in flight.
            refinable: whether a replica stores the sample so that it can be refined.
        """
        record = self._in_flight.pop(sample_id)
        if refinable:
            record.expires_at = self._clock() + self._ttl_s
            self._finished[sample_id] = record
            self._bytes += record.nbytes

    def drop(self, sample_id: str) -> None:
        """Remove the record of an ended sample."""
        if sample_id in self._finished:
            self._bytes -= self._finished.pop(sample_id).nbytes


_QueueItem = ReplicaReply | Exception | None


async def buffer_replies(
    replies: AsyncGenerator[ReplicaReply], max_bytes: Callable[[], int]
) -> AsyncGenerator[ReplicaReply]:
    """Yield the replies about a sample, and drop previews that exceed the memory limit.

    Args:
        replies: is read to its end, or until this generator is closed.
        max_bytes: returns how many bytes of previews may wait for the client.

    Yields:
        Replies in the order in which they arrive.

    Raises:
        Exception: what `replies` raises.
    """
    # Read the first reply in the client's task. A new task would call the replica a moment later,
    # and a stop request that arrives before that would find no sample.
    first = await anext(replies, None)
    if first is None:
        return
    queue: EventQueue[_QueueItem] = EventQueue(_reply_nbytes, max_bytes)

    async def read() -> None:
        try:
            async for reply in replies:
                queue.put_nowait(reply)
        except Exception as error:  # raised again in the client's task
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    reading = asyncio.ensure_future(read())
    try:
        yield first
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        await replies.aclose()  # the task may not have started


def _reply_nbytes(item: _QueueItem) -> int | None:
    """Return the size of a preview in bytes; None: the item is not a preview."""
    answer = item.payload if isinstance(item, ReplicaReply) else None
    if not isinstance(answer, PreviewResponse) or isinstance(answer, SampleResponse):
        return None
    return sum(map(len, answer.samples))
