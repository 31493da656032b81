"""Draws that have ended, kept for a while so that they can be continued."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from anytime_ar.sampling.plan import Plan
from anytime_ar.serving.engine.jobs import SamplingJob

MAX_SESSION_BYTES = 2**27
RELEASE_GRACE_S = 5.0
"""For which a draw can still be continued that a client has let go."""
SESSION_OVERHEAD_BYTES = 8192
"""Bytes of a draw beside its numbers, at most; most of them are short, so that this counts."""


@dataclass(frozen=True)
class Session:
    """One draw."""

    model: str
    client: str
    plan: Plan
    codes: Tensor
    """int32 [n, k]."""


@dataclass
class _SessionEntry:
    session: Session
    expires_at: float
    nbytes: int
    released: bool = False


class SessionStore:
    """Keeps draws for some seconds; of too many, the oldest go early.

    Args:
        ttl_s: how long.
        clock: gives seconds.
        max_bytes: what all of them take at most.
    """

    def __init__(
        self, ttl_s: float, clock: Callable[[], float], max_bytes: int = MAX_SESSION_BYTES
    ) -> None:
        self.ttl_s, self._clock, self._max_bytes = ttl_s, clock, max_bytes
        self._entries: OrderedDict[str, _SessionEntry] = OrderedDict()
        """Those that go first come first."""
        self._bytes = 0

    def __len__(self) -> int:
        self._evict()
        return len(self._entries)

    def put(self, sample_id: str, job: SamplingJob, codes: Tensor) -> None:
        """Keep the codes (int64 [n, k]) of a draw under a name, in place of what was there."""
        self._drop(sample_id)
        small = codes.to(torch.int32)
        kept = Session(job.model, job.client, job.plan, small)
        nbytes = SESSION_OVERHEAD_BYTES + small.nbytes + job.plan.noise.nbytes
        self._entries[sample_id] = _SessionEntry(kept, self._clock() + self.ttl_s, nbytes)
        self._bytes += nbytes
        self._evict()

    def get(self, sample_id: str) -> Session | None:
        """A draw, if it is still there."""
        self._evict()
        entry = self._entries.get(sample_id)
        return None if entry is None or entry.expires_at <= self._clock() else entry.session

    def has(self, sample_id: str) -> bool:
        """Whether a draw is there, and not let go."""
        return self.get(sample_id) is not None and not self._entries[sample_id].released

    def release(self, sample_id: str) -> None:
        """Forget a draw soon, unless it is put again."""
        entry = self._entries[sample_id]
        entry.expires_at, entry.released = (
            min(entry.expires_at, self._clock() + RELEASE_GRACE_S),
            True,
        )
        self._entries.move_to_end(sample_id, last=False)

    def _drop(self, sample_id: str) -> None:
        if sample_id in self._entries:
            self._bytes -= self._entries.pop(sample_id).nbytes

    def _evict(self) -> None:
        now = self._clock()
        while self._entries:
            name, entry = next(iter(self._entries.items()))
            if entry.expires_at > now and self._bytes <= self._max_bytes:
                return
            self._drop(name)
