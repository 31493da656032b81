"""What clients ask of the engine, and what they hear of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from anytime_ar.errors import AnytimeError
from anytime_ar.sampling.plan import Plan

StopReason = Literal["complete", "deadline", "load", "cancelled", "drain"]
"""Why a draw ended: it has all the codes that were asked for, its time was up, others needed the
room, it was stopped, or the server is going down."""

ErrorReason = Literal["overloaded", "draining", "deadline", "cancelled", "broken"]
"""Why there is no sample."""


class ServingError(AnytimeError):
    """There is no sample, and why.

    Args:
        reason: for programs.
        message: for people.
        retry_after_s: when trying again may help; None: no use.
    """

    def __init__(
        self, reason: ErrorReason, message: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason, self.retry_after_s = reason, retry_after_s


def overloaded_error(lateness_s: float) -> ServingError:
    """What a job hears whose floor does not fit, by so many seconds."""
    return ServingError(
        "overloaded",
        f"not even the least that this request needs fits, by {lateness_s:.3f} s; ask for less, "
        "give it more time, or try again later",
        retry_after_s=lateness_s,
    )


def deadline_error(*, draining: bool) -> ServingError:
    """What a job hears whose time is up before it has its floor."""
    if draining:
        return ServingError(
            "draining", "the server went down before the least that was asked for", 1
        )
    return ServingError(
        "deadline",
        "the deadline passed before there were as many codes as the request needs at least",
        retry_after_s=0,
    )


@dataclass(frozen=True)
class PreviewEvent:
    """What a draw has on its way."""

    codes: Tensor
    """int64 [n, k]."""
    data: Tensor
    """float32 [n, *sample_shape] in [-1, 1]."""

    @property
    def nbytes(self) -> int:
        """What it takes."""
        return self.codes.nbytes + self.data.nbytes


@dataclass(frozen=True)
class ResultEvent:
    """What a draw has in the end."""

    codes: Tensor
    data: Tensor
    stop_reason: StopReason
    queue_s: float
    """From its arrival to its first step."""
    sampling_s: float
    """From there to its last."""
    decode_s: float
    """Decoding, of all that was decoded together."""
    decoded_at: float
    """When it was."""


@dataclass(frozen=True)
class CodecResultEvent:
    """What a task has computed."""

    result: Tensor
    queue_s: float
    compute_s: float


JobEvent = PreviewEvent | ResultEvent | CodecResultEvent | ServingError
"""Any number of looks, then exactly one of the others."""
Listener = Callable[[JobEvent], None]


@dataclass(eq=False, kw_only=True)
class Job:
    """Something with a deadline, of a client."""

    model: str
    client: str
    arrival: float
    """On the engine's clock, as all times."""
    deadline: float
    """When the response has to be there."""
    listener: Listener
    data_due: float = math.inf
    """When its data has to be there for that; the scheduler says."""
    cancelled: bool = False
    """Set from any thread; looked at between two codes."""
    on_probation: bool = False
    """Taken in although it does not fit by estimates that may be wrong."""

    num_samples: int
    """n, that its response is about."""


@dataclass(eq=False, kw_only=True)
class SamplingJob(Job):
    """Some samples, with as many codes as load and deadline allow."""

    plan: Plan
    min_codes: int
    """Codes below which it is worth nothing, 1..cap."""
    max_codes: int
    """Codes that were asked for, at most L."""
    preview_interval_s: float = math.inf
    """Seconds from one look to the next; 0: after every code."""
    codes: Tensor | None = None
    """int64 [n, k]: what it has while it waits; None: nothing yet."""
    codes_drawn: int = 0
    """k."""
    rows: list[int] = field(default_factory=list)
    """In the batch; empty while it waits."""
    started_at: float | None = None
    """When it began to be drawn."""
    last_preview_at: float = -math.inf
    """When it was looked at last."""

    num_samples: int = field(init=False)
    """n."""
    num_slots: int = field(init=False)
    """Rows of the batch that it takes."""

    def __post_init__(self) -> None:
        self.num_samples, self.num_slots = len(self.plan), self.plan.num_slots

    @property
    def extra_progress(self) -> float:
        """The share that it has of its extra codes, those between floor and cap."""
        return (self.codes_drawn - self.min_codes) / max(1, self.max_codes - self.min_codes)

    def check_stop(self, extra_share: float) -> StopReason | None:
        """Whether it needs no further code, and why; with a share of its extra codes, 0..1."""
        if self.cancelled:
            return "cancelled"
        if self.codes_drawn >= self.max_codes:
            return "complete"
        return (
            "load"
            if self.codes_drawn >= self.min_codes and self.extra_progress >= extra_share
            else None
        )


@dataclass(eq=False, kw_only=True)
class CodecJob(Job):
    """Something else that the model computes, in parts, between two steps."""

    chunks: list[Callable[[], Tensor]]
    """What is left to do; each result is float or int64 [b, ...]."""
    chunk_size: int
    """Samples in a part."""
    operation: str
    """What is computed, by which its costs are known: `encode`, `decode`."""
    results: list[Tensor] = field(default_factory=list)
    started_at: float | None = None


@dataclass(frozen=True)
class SamplingStats:
    """A draw that was answered, in figures."""

    n: int
    codes_drawn: int
    """That each sample has."""
    stop_reason: StopReason
    queue_s: float
    sampling_s: float
    decode_s: float

    @classmethod
    def from_event(cls, done: ResultEvent) -> SamplingStats:
        """What the engine told."""
        n, codes = done.codes.shape
        return cls(n, codes, done.stop_reason, done.queue_s, done.sampling_s, done.decode_s)


@dataclass
class RequestContext:
    """Filled in by whoever knows."""

    clock: Callable[[], float]
    """The server's, and of all times here."""
    arrival: float
    client: str
    """Whose share it counts towards."""
    model: str | None = None
    n: int | None = None
    codes_requested: int | None = None
    """Codes that were asked for."""
    deadline: float | None = None
    """When the answer had to be there; None: no matter."""
    stats: SamplingStats | None = None
    """How a draw ended."""
    decoded_at: float | None = None
    """When its samples were there, where they were drawn."""
    first_preview_s: float | None = None
    """From the arrival to the first preview."""
    error: str | None = None
    """Why there is no answer."""
