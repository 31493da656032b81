"""Draws that have ended, kept for a while so that they can be continued."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from anytime_ar.sampling.plan import Plan
from anytime_ar.serving.jobs import Draw

MOST_BYTES = 2**27
LET_GO_S = 5.0
"""For which a draw can still be continued that a client has let go."""
APIECE = 8192
"""Bytes of a draw beside its numbers, at most; most of them are short, so that this counts."""


@dataclass(frozen=True)
class Kept:
    """One draw."""

    model: str
    client: str
    plan: Plan
    codes: Tensor
    """int32 [n, k]."""


@dataclass
class _Entry:
    kept: Kept
    until: float
    nbytes: int
    let_go: bool = False


class Keeper:
    """Keeps draws for some seconds; of too many, the oldest go early.

    Args:
        seconds: how long.
        clock: gives seconds.
        most_bytes: what all of them take at most.
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float], most_bytes: int = MOST_BYTES
    ) -> None:
        self.seconds, self._clock, self._most_bytes = seconds, clock, most_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        """Those that go first come first."""
        self._bytes = 0

    def __len__(self) -> int:
        self._forget()
        return len(self._entries)

    def put(self, name: str, draw: Draw, codes: Tensor) -> None:
        """Keep the codes (int64 [n, k]) of a draw under a name, in place of what was there."""
        self._drop(name)
        small = codes.to(torch.int32)
        kept = Kept(draw.model, draw.client, draw.plan, small)
        nbytes = APIECE + small.nbytes + draw.plan.noise.nbytes
        self._entries[name] = _Entry(kept, self._clock() + self.seconds, nbytes)
        self._bytes += nbytes
        self._forget()

    def get(self, name: str) -> Kept | None:
        """A draw, if it is still there."""
        self._forget()
        entry = self._entries.get(name)
        return None if entry is None or entry.until <= self._clock() else entry.kept

    def has(self, name: str) -> bool:
        """Whether a draw is there, and not let go."""
        return self.get(name) is not None and not self._entries[name].let_go

    def let_go(self, name: str) -> None:
        """Forget a draw soon, unless it is put again."""
        entry = self._entries[name]
        entry.until, entry.let_go = min(entry.until, self._clock() + LET_GO_S), True
        self._entries.move_to_end(name, last=False)

    def _drop(self, name: str) -> None:
        if name in self._entries:
            self._bytes -= self._entries.pop(name).nbytes

    def _forget(self) -> None:
        now = self._clock()
        while self._entries:
            name, entry = next(iter(self._entries.items()))
            if entry.until > now and self._bytes <= self._most_bytes:
                return
            self._drop(name)
