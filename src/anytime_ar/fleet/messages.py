"""What the front of a fleet and its replicas tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from anytime_ar.errors import AnytimeError, InputError
from anytime_ar.serving.call import SamplingStats
from anytime_ar.serving.draws import ConflictError
from anytime_ar.serving.jobs import ErrorReason, ServingError
from anytime_ar.serving.occupancy import ModelStats
from anytime_ar.serving.schema import DecodeResponse, EncodeResponse, ModelList, PreviewResponse
from anytime_ar.serving.served import NotFoundError

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
