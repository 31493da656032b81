"""What the front of a fleet and its replicas tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from anytime_ar.errors import AnytimeError, InputError
from anytime_ar.serving.call import Ended
from anytime_ar.serving.draws import Conflict
from anytime_ar.serving.jobs import Reason, Refused
from anytime_ar.serving.occupancy import Occupancy
from anytime_ar.serving.schema import DecodeAnswer, Drawn, EncodeAnswer, ModelsAnswer
from anytime_ar.serving.served import Missing

ELSEWHERE: frozenset[Reason] = frozenset(("overloaded", "draining", "broken"))
"""Refusals that another replica may not share."""
_KINDS: dict[str, type[InputError]] = {
    "missing": Missing,
    "conflict": Conflict,
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
class Mistake:
    """Why there is no answer. Told like an answer: what is raised is a fault, and no answer."""

    kind: Literal["refused", "missing", "conflict", "invalid"]
    message: str
    reason: Reason | None = None
    retry_s: float | None = None

    @classmethod
    def of(cls, error: AnytimeError) -> Mistake:
        """The same to be sent."""
        if isinstance(error, Refused):
            return cls("refused", str(error), error.reason, error.retry_s)
        if isinstance(error, Missing):
            return cls("missing", str(error))
        return cls("conflict" if isinstance(error, Conflict) else "invalid", str(error))

    def error(self) -> AnytimeError:
        """The same to be raised."""
        if self.reason is not None:
            return Refused(self.reason, self.message, self.retry_s)
        return _KINDS[self.kind](self.message)


@dataclass(frozen=True)
class State:
    """How a replica is."""

    ready: bool
    work: Mapping[str, Occupancy]
    """In each model."""

    @property
    def backlog_s(self) -> float:
        """What is left to do, in seconds of its machine."""
        return sum(one.backlog_s for one in self.work.values())


@dataclass(frozen=True)
class Told:
    """One thing that a replica tells."""

    replica: str
    state: State
    answer: Drawn | EncodeAnswer | DecodeAnswer | ModelsAnswer | Mistake | None
    """None: there was nothing to say but how it is."""
    took_s: float = 0.0
    """Since the call reached the replica."""
    asked: int | None = None
    """Codes that were asked for."""
    ended: Ended | None = None
    """How a draw ended."""
