"""One replica of a fleet: a station without HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from anytime_ar.errors import InputError
from anytime_ar.fleet.messages import Caller, RemoteError, ReplicaReply, ReplicaState
from anytime_ar.serving.call import RequestContext
from anytime_ar.serving.jobs import ServingError
from anytime_ar.serving.schema import (
    DecodeRequest,
    DecodeResponse,
    EncodeRequest,
    EncodeResponse,
    PreviewResponse,
    RefineRequest,
    SampleRequest,
)
from anytime_ar.serving.station import ServingEngine


class Replica:
    """Answers what `anytime_ar.fleet.front` asks: each method tells any number of things.

    Args:
        name: among the replicas.
        engine: that it is.
        clock: gives seconds.
    """

    def __init__(self, name: str, engine: ServingEngine, clock: Callable[[], float]) -> None:
        self.name, self.engine, self._clock = name, engine, clock

    async def report_state(self) -> AsyncGenerator[ReplicaReply]:
        """How it is."""
        yield ReplicaReply(self.name, self._state(), None)

    async def describe(self) -> AsyncGenerator[ReplicaReply]:
        """What it serves."""
        yield ReplicaReply(self.name, self._state(), self.engine.models.describe())

    async def drain(self, timeout_s: float) -> AsyncGenerator[ReplicaReply]:
        """Finish all there is within some seconds, and refuse whatever comes."""
        self.engine.worker.drain(timeout_s)
        yield ReplicaReply(self.name, self._state(), None)

    def sample(self, request: SampleRequest, caller: Caller) -> AsyncGenerator[ReplicaReply]:
        """See `SampleService.sample`."""
        return self._stream_replies(
            lambda call: self.engine.sample_service.sample(request, call), caller
        )

    def refine(
        self, name: str, request: RefineRequest, caller: Caller
    ) -> AsyncGenerator[ReplicaReply]:
        """See `SampleService.refine`."""
        return self._stream_replies(
            lambda call: self.engine.sample_service.refine(name, request, call), caller
        )

    def stop(self, name: str, caller: Caller) -> AsyncGenerator[ReplicaReply]:
        """See `SampleService.stop`."""
        return self._single_reply(lambda call: self.engine.sample_service.stop(name, call), caller)

    def encode(self, request: EncodeRequest, caller: Caller) -> AsyncGenerator[ReplicaReply]:
        """See `CodecService.encode`."""
        return self._single_reply(
            lambda call: self.engine.codec_service.encode(request, call), caller
        )

    def decode(self, request: DecodeRequest, caller: Caller) -> AsyncGenerator[ReplicaReply]:
        """See `CodecService.decode`."""
        return self._single_reply(
            lambda call: self.engine.codec_service.decode(request, call), caller
        )

    async def _stream_replies(
        self, start: Callable[[RequestContext], AsyncGenerator[PreviewResponse]], caller: Caller
    ) -> AsyncGenerator[ReplicaReply]:
        call, came = self._context(caller), self._clock()
        try:
            async with aclosing(start(call)) as drawing:
                async for drawn in drawing:
                    if call.stats is not None and call.decoded_at is not None:
                        since_s = self._clock() - call.decoded_at
                        self.engine.worker.record_response(call.stats.n, since_s)
                    yield self._reply(drawn, call, came)
        except (ServingError, InputError) as error:
            yield self._reply(RemoteError.from_exception(error), call, came)

    async def _single_reply(
        self,
        run: Callable[
            [RequestContext], Awaitable[PreviewResponse | EncodeResponse | DecodeResponse | None]
        ],
        caller: Caller,
    ) -> AsyncGenerator[ReplicaReply]:
        call, came = self._context(caller), self._clock()
        answer: PreviewResponse | EncodeResponse | DecodeResponse | RemoteError | None
        try:
            answer = await run(call)
        except (ServingError, InputError) as error:
            answer = RemoteError.from_exception(error)
        yield self._reply(answer, call, came)

    def _context(self, caller: Caller) -> RequestContext:
        return RequestContext(self._clock, self._clock() - caller.elapsed_s, client=caller.client)

    def _reply(
        self,
        payload: PreviewResponse | EncodeResponse | DecodeResponse | RemoteError | None,
        context: RequestContext,
        arrived_at: float,
    ) -> ReplicaReply:
        took_s = self._clock() - arrived_at
        return ReplicaReply(
            self.name, self._state(), payload, took_s, context.codes_requested, context.stats
        )

    def _state(self) -> ReplicaState:
        return ReplicaState(self.engine.ready, self.engine.stats())
