"""Where draws are, and what they are of: enough to draw them again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from anytime_ar.serving.schema import SampleRequest

MOST_BYTES = 2**27
"""What draws that have ended take, about."""
_APIECE = 4096
_A_LABEL = 256
"""Bytes of one that a request names, at most."""


@dataclass(eq=False)
class Held:
    """A draw."""

    request: SampleRequest | None
    """With its seed; None: another front knows it."""
    client: str
    replica: str | None = None
    """That has it."""
    until: float | None = None
    """When it is forgotten; None: it is under way."""

    @property
    def nbytes(self) -> int:
        """What it takes, at most."""
        labels = None if self.request is None else self.request.label
        return _APIECE + _A_LABEL * (len(labels) if isinstance(labels, tuple) else 0)


class Holdings:
    """Draws that are under way, and those that have ended a while ago; of too many, the oldest go
    early.

    Args:
        seconds: for which those that have ended are remembered.
        clock: gives seconds.
        most_bytes: what those take together.
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float], most_bytes: int = MOST_BYTES
    ) -> None:
        self._seconds, self._clock, self._most_bytes = seconds, clock, most_bytes
        self._bytes = 0  # of those that have ended
        self._underway: dict[str, Held] = {}
        self._ended: OrderedDict[str, Held] = OrderedDict()

    @property
    def underway(self) -> int:
        """How many have not ended."""
        return len(self._underway)

    def get(self, name: str) -> Held | None:
        """A draw, if it is known."""
        now = self._clock()
        while self._ended:
            oldest = next(iter(self._ended.values()))
            if self._bytes <= self._most_bytes and (oldest.until or 0.0) > now:
                break
            self._bytes -= self._ended.popitem(last=False)[1].nbytes
        return self._underway.get(name) or self._ended.get(name)

    def is_underway(self, name: str) -> bool:
        """Whether a draw of that name has not ended."""
        return name in self._underway

    def begin(self, name: str, held: Held) -> None:
        """A draw is begun, or gone on with."""
        self.drop(name)
        held.until = None
        self._underway[name] = held

    def end(self, name: str, *, kept: bool) -> None:
        """It has ended, and can be gone on with if it is kept."""
        held = self._underway.pop(name)
        if kept:
            held.until = self._clock() + self._seconds
            self._ended[name] = held
            self._bytes += held.nbytes

    def drop(self, name: str) -> None:
        """Forget one that has ended."""
        if name in self._ended:
            self._bytes -= self._ended.pop(name).nbytes
