"""One HTTP request: who asked, when, and what came of it, for the log and the metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anytime_ar.serving.jobs import ResultEvent, StopReason


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
