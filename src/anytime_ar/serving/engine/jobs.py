"""Jobs of the serving engine, the events that they send, and the errors that end them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from anytime_ar.errors import AnytimeError
from anytime_ar.sampling.plan import Plan

StopReason = Literal["complete", "deadline", "load", "cancelled", "drain"]
"""Reason why sampling stopped.

- `complete`: the samples have all requested codes.
- `deadline`: no time was left.
- `load`: other requests needed the slots.
- `cancelled`: the client stopped it.
- `drain`: the server is shutting down.
"""

ErrorReason = Literal["overloaded", "draining", "deadline", "cancelled", "broken"]
"""Reason why a request ends without samples."""


class ServingError(AnytimeError):
    """Error for a request that the server refuses or cannot complete.

    Args:
        reason: Name of the reason, for programs.
        message: Text for people.
        retry_after_s: Seconds after which a retry may succeed; None if a retry does not help.
    """

    def __init__(
        self, reason: ErrorReason, message: str, retry_after_s: float | None = None
    ) -> None:
        """Store the reason and the time of a retry beside the message."""
        super().__init__(message)
        self.reason, self.retry_after_s = reason, retry_after_s


def overloaded_error(lateness_s: float, too_short: str | None) -> ServingError:
    """Return the error for a job whose minimum codes would come too late.

    Args:
        lateness_s: By how many seconds.
        too_short: What is wrong with a deadline that no idle server can keep; None for others.
    """
    message = too_short or (
        f"the server is overloaded: the minimum codes of this request would be {lateness_s:.3f} s "
        "late; lower min_codes or n, allow a longer deadline, or try again later"
    )
    return ServingError("overloaded", message, retry_after_s=lateness_s)


def deadline_error(too_short: str | None, *, draining: bool) -> ServingError:
    """Return the error for a job whose deadline passes before it has its minimum codes.

    Args:
        too_short: What is wrong with a deadline that no idle server can keep; None for others.
        draining: Whether the deadline comes from the shutdown of the server.
    """
    if draining:
        return ServingError(
            "draining",
            "the server shut down before the samples had their minimum codes; try another server",
            retry_after_s=1,
        )
    return ServingError(
        "deadline",
        too_short
        or "the deadline passed before the samples had their minimum codes; allow a longer "
        "deadline, or lower min_codes",
        retry_after_s=0,
    )


def too_short_deadline(deadline_s: float, shortest_s: float) -> str | None:
    """Return what is wrong with a deadline that no idle server can keep; None for others.

    Args:
        deadline_s: Seconds from the arrival of a job to its deadline.
        shortest_s: The shortest deadline that an idle server can keep.
    """
    if deadline_s >= shortest_s:
        return None
    shortest_ms = math.ceil(1e5 * shortest_s) / 100
    return (
        f"a deadline of {1000 * deadline_s:.4g} ms is too short for the minimum codes of this "
        f"request, even on an idle server; allow at least {shortest_ms:.2f} ms, or lower min_codes "
        "or n"
    )


@dataclass(frozen=True)
class PreviewEvent:
    """Samples of a job that is still running, decoded from the codes so far."""

    codes: Tensor
    """Codes so far, int64 [n, k]."""
    data: Tensor
    """Decoded samples, float32 [n, *sample_shape] in [-1, 1]."""

    @property
    def nbytes(self) -> int:
        """Return the memory of the codes and the data in bytes."""
        return self.codes.nbytes + self.data.nbytes


@dataclass(frozen=True)
class ResultEvent:
    """Final samples of a sampling job."""

    codes: Tensor
    """Codes of the samples, int64 [n, k]."""
    data: Tensor
    """Decoded samples, float32 [n, *sample_shape] in [-1, 1]."""
    stop_reason: StopReason
    """Reason why sampling stopped."""
    queue_s: float
    """Seconds from the arrival to the first step."""
    sampling_s: float
    """Seconds from the first step to the last."""
    decode_s: float
    """Seconds to decode the whole batch that the samples are part of."""
    decoded_at: float
    """Time at which the samples were decoded, on the engine's clock."""


@dataclass(frozen=True)
class CodecResultEvent:
    """Result of a codec job."""

    result: Tensor
    """Codes of an encode job, int64 [n, L], or samples of a decode job, float32
    [n, *sample_shape] in [-1, 1]."""
    queue_s: float
    """Seconds from the arrival to the first chunk."""
    compute_s: float
    """Seconds from the first chunk to the end of the last."""


JobEvent = PreviewEvent | ResultEvent | CodecResultEvent | ServingError
"""Event of a job. A job sends any number of previews, then exactly one of the others."""
Listener = Callable[[JobEvent], None]
"""Function that receives the events of a job, in the worker thread."""


@dataclass(eq=False, kw_only=True)
class Job:
    """Work with a deadline that a client requests."""

    model: str
    """Name of the model that does the work."""
    client: str
    """Name of the client that requests it."""
    arrival: float
    """Time of arrival, on the engine's clock as all times of a job."""
    deadline: float
    """Time by which the response must be complete."""
    listener: Listener
    """Function that receives the events of the job."""
    data_due: float = math.inf
    """Time by which the data must be ready to meet the deadline. The scheduler sets it."""
    cancelled: bool = False
    """Whether the job is cancelled. Any thread may set it, and the scheduler reads it between two
    codes."""
    on_probation: bool = False
    """Whether the job was admitted although it does not fit by estimates that may be wrong."""

    num_samples: int
    """Number of samples of the request, n."""
    started_at: float | None = None
    """Time at which the job first entered the batch, or its first chunk started."""


@dataclass(eq=False, kw_only=True)
class SamplingJob(Job):
    """Job that generates samples, with as many codes as load and deadline allow."""

    plan: Plan
    """Noise, labels and sampling parameters of the samples."""
    min_codes: int
    """Minimum codes of each sample, 1..max_codes. Fewer are of no use to the client."""
    max_codes: int
    """Number of requested codes of each sample, at most L."""
    preview_interval_s: float = math.inf
    """Seconds between two previews. With 0 there is one after every code."""
    codes: Tensor | None = None
    """Codes so far while the job waits, int64 [n, k]. None before the first code and while the job
    is in the batch."""
    codes_drawn: int = 0
    """Number of codes so far, k."""
    rows: list[int] = field(default_factory=list)
    """Ids of its rows in the batch. Empty while the job waits."""
    last_preview_at: float = -math.inf
    """Time of the last preview."""

    num_samples: int = field(init=False)
    """Number of samples, n."""
    num_slots: int = field(init=False)
    """Number of batch rows that the job takes."""

    def __post_init__(self) -> None:
        """Take the numbers of samples and rows from the plan."""
        if self.codes is not None:
            self.plan = self.plan.without_candidates()
        self.num_samples, self.num_slots = len(self.plan), self.plan.num_slots

    @property
    def extra_progress(self) -> float:
        """Return the share of extra codes drawn so far; negative below `min_codes`.

        Extra codes are those between `min_codes` and `max_codes`.
        """
        return (self.codes_drawn - self.min_codes) / max(1, self.max_codes - self.min_codes)

    def check_stop(self, extra_share: float) -> StopReason | None:
        """Return why the job needs no further code; None if it needs one.

        Args:
            extra_share: Share of its extra codes that the job may have, 0..1.
        """
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
    """Job that encodes or decodes, in chunks that run between two steps."""

    chunks: list[Callable[[], Tensor]]
    """Functions that compute the remaining chunks. Each returns float32 or int64
    [chunk_size, ...], the last one perhaps fewer samples."""
    chunk_size: int
    """Number of samples in a chunk."""
    operation: str
    """Operation of the job, `encode` or `decode`. Costs are measured for each operation."""
    results: list[Tensor] = field(default_factory=list)
    """Results of the chunks so far."""


@dataclass(frozen=True)
class SamplingStats:
    """Codes, stop reason and durations of a completed sampling job."""

    n: int
    """Number of samples in the request."""
    codes_drawn: int
    """Number of codes of each sample."""
    stop_reason: StopReason
    """Reason why sampling stopped."""
    queue_s: float
    """Seconds from the arrival to the first step."""
    sampling_s: float
    """Seconds from the first step to the last."""
    decode_s: float
    """Seconds to decode the whole batch that the samples are part of."""

    @classmethod
    def from_event(cls, done: ResultEvent) -> SamplingStats:
        """Take the statistics from the result of a job."""
        n, codes = done.codes.shape
        return cls(n, codes, done.stop_reason, done.queue_s, done.sampling_s, done.decode_s)


@dataclass
class RequestContext:
    """State of one HTTP request.

    The middleware creates it. The services and the error handlers fill in what they find out, for
    the log and the metrics.
    """

    clock: Callable[[], float]
    """Clock of the server, for all times of the context."""
    arrival: float
    """Time at which the request arrived."""
    client: str
    """Name of the client, whose fair share the request counts towards."""
    model: str | None = None
    """Name of the requested model."""
    n: int | None = None
    """Number of samples in the request."""
    codes_requested: int | None = None
    """Number of requested codes of each sample."""
    deadline: float | None = None
    """Time by which the response is due. None if the request has no deadline."""
    stats: SamplingStats | None = None
    """Statistics of the completed sampling job."""
    decoded_at: float | None = None
    """Time at which the samples were decoded, on the clock of the process that sampled them."""
    first_preview_s: float | None = None
    """Seconds from the arrival to the first preview."""
    error: str | None = None
    """Name of the error that the request ends with."""
