"""Where draws are, and what they are of: enough to draw them again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from anytime_ar.serving.schema import SampleRequest

MAX_REGISTRY_BYTES = 2**27
"""What draws that have ended take, about."""
_RECORD_OVERHEAD_BYTES = 4096
_LABEL_BYTES = 256
"""Bytes of one that a request names, at most."""


@dataclass(eq=False)
class SampleRecord:
    """A draw."""

    request: SampleRequest | None
    """With its seed; None: another front knows it."""
    client: str
    replica: str | None = None
    """That has it."""
    expires_at: float | None = None
    """When it is forgotten; None: it is under way."""

    @property
    def nbytes(self) -> int:
        """What it takes, at most."""
        labels = None if self.request is None else self.request.label
        return _RECORD_OVERHEAD_BYTES + _LABEL_BYTES * (
            len(labels) if isinstance(labels, tuple) else 0
        )


class InFlightRegistry:
    """Draws that are under way, and those that have ended a while ago; of too many, the oldest go
    early.

    Args:
        ttl_s: for which those that have ended are remembered.
        clock: gives seconds.
        max_bytes: what those take together.
    """

    def __init__(
        self, ttl_s: float, clock: Callable[[], float], max_bytes: int = MAX_REGISTRY_BYTES
    ) -> None:
        self._ttl_s, self._clock, self._max_bytes = ttl_s, clock, max_bytes
        self._bytes = 0  # of those that have ended
        self._in_flight: dict[str, SampleRecord] = {}
        self._finished: OrderedDict[str, SampleRecord] = OrderedDict()

    @property
    def num_in_flight(self) -> int:
        """How many have not ended."""
        return len(self._in_flight)

    def get(self, sample_id: str) -> SampleRecord | None:
        """A draw, if it is known."""
        now = self._clock()
        while self._finished:
            oldest = next(iter(self._finished.values()))
            if self._bytes <= self._max_bytes and (oldest.expires_at or 0.0) > now:
                break
            self._bytes -= self._finished.popitem(last=False)[1].nbytes
        return self._in_flight.get(sample_id) or self._finished.get(sample_id)

    def is_in_flight(self, sample_id: str) -> bool:
        """Whether a draw of that name has not ended."""
        return sample_id in self._in_flight

    def start(self, sample_id: str, record: SampleRecord) -> None:
        """A draw is begun, or gone on with."""
        self.drop(sample_id)
        record.expires_at = None
        self._in_flight[sample_id] = record

    def finish(self, sample_id: str, *, refinable: bool) -> None:
        """It has ended, and can be gone on with if it is kept."""
        held = self._in_flight.pop(sample_id)
        if refinable:
            held.expires_at = self._clock() + self._ttl_s
            self._finished[sample_id] = held
            self._bytes += held.nbytes

    def drop(self, sample_id: str) -> None:
        """Forget one that has ended."""
        if sample_id in self._finished:
            self._bytes -= self._finished.pop(sample_id).nbytes
