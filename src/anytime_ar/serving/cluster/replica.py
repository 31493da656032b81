"""One replica of a fleet: a station without HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from anytime_ar.errors import AnytimeError, InputError
from anytime_ar.serving.engine.jobs import ErrorReason, RequestContext, SamplingStats, ServingError
from anytime_ar.serving.engine.models import NotFoundError
from anytime_ar.serving.engine.scheduler import ModelStats
from anytime_ar.serving.engine.services import ConflictError
from anytime_ar.serving.engine.serving_engine import ServingEngine
from anytime_ar.serving.schema import (
    DecodeRequest,
    DecodeResponse,
    EncodeRequest,
    EncodeResponse,
    ModelList,
    PreviewResponse,
    RefineRequest,
    SampleRequest,
)


class Replica:
    """Answers what `anytime_ar.serving.cluster.gateway` asks: each method tells any number of things.

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


RETRY_ON_OTHER_REPLICA: frozenset[ErrorReason] = frozenset(("overloaded", "draining", "broken"))
"""Refusals that another replica may not share."""
_ERROR_TYPES: dict[str, type[InputError]] = {
    "not_found": NotFoundError,
    "conflict": ConflictError,
    "invalid": InputError,
}


@dataclass(frozen=True)
class Caller:
    """Who asks, and since when."""

    client: str
    elapsed_s: float
    """Of the request's time, with what the way back will take: clocks of machines differ, seconds
    do not."""


@dataclass(frozen=True)
class RemoteError:
    """Why there is no answer. Told like an answer: what is raised is a fault, and no answer."""

    kind: Literal["serving", "not_found", "conflict", "invalid"]
    message: str
    reason: ErrorReason | None = None
    retry_after_s: float | None = None

    @classmethod
    def from_exception(cls, error: AnytimeError) -> RemoteError:
        """The same to be sent."""
        if isinstance(error, ServingError):
            return cls("serving", str(error), error.reason, error.retry_after_s)
        if isinstance(error, NotFoundError):
            return cls("not_found", str(error))
        return cls("conflict" if isinstance(error, ConflictError) else "invalid", str(error))

    def to_exception(self) -> AnytimeError:
        """The same to be raised."""
        if self.reason is not None:
            return ServingError(self.reason, self.message, self.retry_after_s)
        return _ERROR_TYPES[self.kind](self.message)


@dataclass(frozen=True)
class ReplicaState:
    """How a replica is."""

    ready: bool
    stats: Mapping[str, ModelStats]
    """In each model."""

    @property
    def backlog_s(self) -> float:
        """What is left to do, in seconds of its machine."""
        return sum(one.backlog_s for one in self.stats.values())


@dataclass(frozen=True)
class ReplicaReply:
    """One thing that a replica tells."""

    replica: str
    state: ReplicaState
    payload: PreviewResponse | EncodeResponse | DecodeResponse | ModelList | RemoteError | None
    """None: there was nothing to say but how it is."""
    replica_s: float = 0.0
    """Since the call reached the replica."""
    codes_requested: int | None = None
    """Codes that were asked for."""
    stats: SamplingStats | None = None
    """How a draw ended."""
