"""One replica of a cluster: a serving engine without HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from anytime_ar.errors import AnytimeError, InputError
from anytime_ar.serving.engine.jobs import ErrorReason, RequestContext, SamplingStats, ServingError
from anytime_ar.serving.engine.models import NotFoundError
from anytime_ar.serving.engine.sample_service import ConflictError
from anytime_ar.serving.engine.scheduler import ModelStats
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
    """A serving engine whose methods the gateway calls.

    Each method yields any number of `ReplicaReply` objects.

    Args:
        name: name among the replicas.
        engine: the serving engine.
        clock: returns the time in seconds.
    """

    def __init__(self, name: str, engine: ServingEngine, clock: Callable[[], float]) -> None:
        """Create a replica around a serving engine."""
        self.name, self.engine, self._clock = name, engine, clock

    async def report_state(self) -> AsyncGenerator[ReplicaReply]:
        """Yield one reply with the state of the replica."""
        yield ReplicaReply(self.name, self._state(), None)

    async def describe(self) -> AsyncGenerator[ReplicaReply]:
        """Yield one reply with the description of the served models."""
        yield ReplicaReply(self.name, self._state(), self.engine.models.describe())

    async def drain(self, timeout_s: float) -> AsyncGenerator[ReplicaReply]:
        """Refuse new requests and finish the running ones.

        Args:
            timeout_s: seconds within which running requests finish.

        Yields:
            One reply with the state of the replica.
        """
        self.engine.worker.drain(timeout_s)
        yield ReplicaReply(self.name, self._state(), None)

    def sample(self, request: SampleRequest, caller: Caller) -> AsyncGenerator[ReplicaReply]:
        """Generate samples and yield replies; see `SampleService.sample`."""
        return self._stream_replies(
            lambda context: self.engine.sample_service.sample(request, context), caller
        )

    def fix_kept_codes(
        self, request: SampleRequest, caller: Caller
    ) -> AsyncGenerator[ReplicaReply]:
        """Resolve the samples to vary and yield one reply; see `SampleService.fix_kept_codes`."""

        async def resolve(context: RequestContext) -> SampleRequest:
            assert request.vary is not None
            return self.engine.sample_service.fix_kept_codes(request, request.vary, context)

        return self._single_reply(resolve, caller)

    def refine(
        self, name: str, request: RefineRequest, caller: Caller
    ) -> AsyncGenerator[ReplicaReply]:
        """Refine a sample and yield replies; see `SampleService.refine`."""
        return self._stream_replies(
            lambda context: self.engine.sample_service.refine(name, request, context), caller
        )

    def stop(self, name: str, caller: Caller) -> AsyncGenerator[ReplicaReply]:
        """Stop a sample and yield one reply; see `SampleService.stop`."""
        return self._single_reply(
            lambda context: self.engine.sample_service.stop(name, context), caller
        )

    def encode(self, request: EncodeRequest, caller: Caller) -> AsyncGenerator[ReplicaReply]:
        """Encode samples and yield one reply; see `CodecService.encode`."""
        return self._single_reply(
            lambda context: self.engine.codec_service.encode(request, context), caller
        )

    def decode(self, request: DecodeRequest, caller: Caller) -> AsyncGenerator[ReplicaReply]:
        """Decode codes and yield one reply; see `CodecService.decode`."""
        return self._single_reply(
            lambda context: self.engine.codec_service.decode(request, context), caller
        )

    async def _stream_replies(
        self, start: Callable[[RequestContext], AsyncGenerator[PreviewResponse]], caller: Caller
    ) -> AsyncGenerator[ReplicaReply]:
        context, arrived_at = self._context(caller), self._clock()
        try:
            async with aclosing(start(context)) as responses:
                async for response in responses:
                    if context.stats is not None and context.decoded_at is not None:
                        since_s = self._clock() - context.decoded_at
                        self.engine.worker.record_response(context.stats.n, since_s)
                    yield self._reply(response, context, arrived_at)
        except (ServingError, InputError) as error:
            yield self._reply(RemoteError.from_exception(error), context, arrived_at)

    async def _single_reply(
        self,
        run: Callable[[RequestContext], Awaitable[Payload]],
        caller: Caller,
    ) -> AsyncGenerator[ReplicaReply]:
        context, arrived_at = self._context(caller), self._clock()
        answer: Payload
        try:
            answer = await run(context)
        except (ServingError, InputError) as error:
            answer = RemoteError.from_exception(error)
        yield self._reply(answer, context, arrived_at)

    def _context(self, caller: Caller) -> RequestContext:
        return RequestContext(self._clock, self._clock() - caller.elapsed_s, client=caller.client)

    def _reply(
        self,
        payload: Payload,
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
"""Reasons of refusal after which another replica may accept the request."""
_ERROR_TYPES: dict[str, type[InputError]] = {
    "not_found": NotFoundError,
    "conflict": ConflictError,
    "invalid": InputError,
}
"""Error class of each kind of `RemoteError`, except `serving`."""


@dataclass(frozen=True)
class Caller:
    """The client of a request and how long ago the request arrived."""

    client: str
    """Name of the client, by its API key."""
    elapsed_s: float
    """Seconds since the request arrived, plus the network time of the response.

    Clocks of machines differ, so a duration is sent instead of a time.
    """


@dataclass(frozen=True)
class RemoteError:
    """An error of a replica as data.

    It is sent as a reply, because an exception would mean that the call itself failed.
    """

    kind: Literal["serving", "not_found", "conflict", "invalid"]
    """Kind of the error, which determines its class."""
    message: str
    """Message of the error for the client."""
    reason: ErrorReason | None = None
    """Reason of a `ServingError`; None: another class of error."""
    retry_after_s: float | None = None
    """Seconds after which a retry may succeed; None: not known."""

    @classmethod
    def from_exception(cls, error: AnytimeError) -> RemoteError:
        """Convert an exception to an error that can be sent."""
        if isinstance(error, ServingError):
            return cls("serving", str(error), error.reason, error.retry_after_s)
        if isinstance(error, NotFoundError):
            return cls("not_found", str(error))
        return cls("conflict" if isinstance(error, ConflictError) else "invalid", str(error))

    def to_exception(self) -> AnytimeError:
        """Convert the error to an exception that can be raised."""
        if self.reason is not None:
            return ServingError(self.reason, self.message, self.retry_after_s)
        return _ERROR_TYPES[self.kind](self.message)


Payload = (
    PreviewResponse
    | EncodeResponse
    | DecodeResponse
    | ModelList
    | SampleRequest
    | RemoteError
    | None
)
"""What a replica replies with."""


@dataclass(frozen=True)
class ReplicaState:
    """The readiness and the load of a replica."""

    ready: bool
    """Whether the replica accepts requests."""
    stats: Mapping[str, ModelStats]
    """Statistics of each model, by its name."""

    @property
    def backlog_s(self) -> float:
        """Return the work left over all models, in seconds of the machine."""
        return sum(one.backlog_s for one in self.stats.values())


@dataclass(frozen=True)
class ReplicaReply:
    """One reply of a replica to the gateway."""

    replica: str
    """Name of the replica that replies."""
    state: ReplicaState
    """State of the replica when it replied."""
    payload: Payload
    """Response or error for the client; None: the reply carries the state alone."""
    replica_s: float = 0.0
    """Seconds since the call reached the replica."""
    codes_requested: int | None = None
    """Codes per sample that the client requested; None: not known."""
    stats: SamplingStats | None = None
    """Statistics of an ended sample; None: it has not ended."""
