"""What the HTTP API of a fleet stands before: the same as that of one server, elsewhere."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from anytime_ar.fleet.ahead import buffer_replies
from anytime_ar.fleet.held import InFlightRegistry, SampleRecord
from anytime_ar.fleet.messages import RemoteError, ReplicaReply
from anytime_ar.fleet.relay import Dispatcher, ReplicaLostError
from anytime_ar.serving.call import RequestContext
from anytime_ar.serving.config import ServingConfig
from anytime_ar.serving.draws import SEED_BITS, ConflictError, in_flight_error, unknown_sample_error
from anytime_ar.serving.jobs import ServingError
from anytime_ar.serving.logs import log_event
from anytime_ar.serving.mailroom import MAX_PREVIEW_BYTES
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
from anytime_ar.serving.served import unknown_model_error

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
        """See `anytime_ar.serving.served.Models.formats`."""
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
        self._registry = InFlightRegistry(config.keep_s, clock)
        self.draining = False

    def __len__(self) -> int:
        """How many have not ended."""
        return self._registry.num_in_flight

    def sample(
        self, request: SampleRequest, context: RequestContext
    ) -> AsyncGenerator[PreviewResponse]:
        """See `anytime_ar.serving.draws.Draws.sample`; all mistakes but a name that is taken show
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
        """See `anytime_ar.serving.draws.Draws.refine`."""
        held = self._registry.get(sample_id) or SampleRecord(
            None, context.client
        )  # of another front, perhaps
        if held.client != context.client:
            raise unknown_sample_error(sample_id)
        return self._stream_updates(sample_id, held, request, context)

    async def stop(self, sample_id: str, context: RequestContext) -> SampleResponse | None:
        """See `anytime_ar.serving.draws.Draws.stop`."""
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
        """See `anytime_ar.serving.computing.Computing.encode`."""
        context.n = len(request.samples)
        answer = await self._dispatch("encode", request, context)
        assert isinstance(answer, EncodeResponse)
        return answer

    async def decode(self, request: DecodeRequest, context: RequestContext) -> DecodeResponse:
        """See `anytime_ar.serving.computing.Computing.decode`."""
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
