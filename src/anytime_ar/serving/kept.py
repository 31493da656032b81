"""Draws that have ended, kept for a while so that they can be continued."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from anytime_ar.sampling.plan import Plan
from anytime_ar.serving.jobs import Draw

MOST_BYTES = 2**26


@dataclass(frozen=True)
class Kept:
    """One draw."""

    model: str
    client: str
    plan: Plan
    codes: Tensor
    """int32 [n, k]."""


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
        self._kept: OrderedDict[str, tuple[float, int, Kept]] = OrderedDict()  # until, bytes
        self._bytes = 0

    def __len__(self) -> int:
        self._forget()
        return len(self._kept)

    def put(self, name: str, draw: Draw, codes: Tensor) -> None:
        """Keep the codes (int64 [n, k]) of a draw under a name, in place of what was there."""
        self.drop(name)
        small = codes.to(torch.int32)
        size = 4 * small.numel() + 8 * draw.plan.noise.numel()
        self._kept[name] = (
            self._clock() + self.seconds,
            size,
            Kept(draw.model, draw.client, draw.plan, small),
        )
        self._bytes += size
        self._forget()

    def get(self, name: str) -> Kept | None:
        """A draw, if it is still there."""
        self._forget()
        entry = self._kept.get(name)
        return None if entry is None else entry[2]

    def drop(self, name: str) -> None:
        """Forget a draw, if it is there."""
        if name in self._kept:
            self._bytes -= self._kept.pop(name)[1]

    def _forget(self) -> None:
        now = self._clock()
        while self._kept:
            until, size, _ = next(iter(self._kept.values()))
            if until > now and self._bytes <= self._most_bytes:
                return
            self._kept.popitem(last=False)
            self._bytes -= size
