"""Store of the sessions from which ended samples can be refined."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from anytime_ar.sampling.plan import Plan
from anytime_ar.serving.engine.jobs import SamplingJob

MAX_SESSION_BYTES = 2**27
"""Default limit of the memory of all sessions, in bytes."""
RELEASE_GRACE_S = 5.0
"""Seconds for which a released session can still be refined."""
SESSION_OVERHEAD_BYTES = 8192
"""Maximum bytes of a session beside its codes and noise. Most sessions have few codes, so that the
overhead matters."""


class SampleForm(NamedTuple):
    """Form in which samples were requested, the default of requests that refine them."""

    format: str | None = None
    """File format of each sample; None for the default of the model."""
    with_codes: bool = False
    """Whether the response includes the codes."""


@dataclass(frozen=True)
class Session:
    """State from which the samples of one request can be refined."""

    model: str
    """Name of the model."""
    client: str
    """Name of the client that owns the samples."""
    plan: Plan
    """Noise, labels and sampling parameters of the samples."""
    codes: Tensor
    """Codes so far, int32 [n, k]."""
    form: SampleForm
    """Form in which the samples were requested."""


@dataclass
class _SessionEntry:
    session: Session
    expires_at: float
    nbytes: int
    released: bool = False


class SessionStore:
    """A store that drops sessions after some seconds, and the oldest earlier if memory is short.

    Args:
        ttl_s: Lifetime of a session in seconds.
        clock: Clock of the server, in seconds.
        max_bytes: Maximum memory of all sessions in bytes.
    """

    def __init__(
        self, ttl_s: float, clock: Callable[[], float], max_bytes: int = MAX_SESSION_BYTES
    ) -> None:
        """Create an empty store."""
        self.ttl_s, self._clock, self._max_bytes = ttl_s, clock, max_bytes
        self._entries: OrderedDict[str, _SessionEntry] = OrderedDict()
        """Sessions by id, in the order in which they are dropped."""
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of sessions that have not expired."""
        self._evict()
        return len(self._entries)

    def put(
        self,
        sample_id: str,
        job: SamplingJob,
        codes: Tensor,
        form: SampleForm = SampleForm(),  # noqa: B008 - it is immutable
    ) -> None:
        """Store a session, in place of an older one with the same id.

        Args:
            sample_id: Id of the samples.
            job: Job that generated them.
            codes: Codes of the samples, int64 [n, k].
            form: Form in which the samples were requested.
        """
        self._drop(sample_id)
        small = codes.to(torch.int32)
        session = Session(job.model, job.client, job.plan, small, form)
        nbytes = SESSION_OVERHEAD_BYTES + small.nbytes + job.plan.noise.nbytes
        if job.plan.fixed_codes is not None:
            nbytes += job.plan.fixed_codes.nbytes
        self._entries[sample_id] = _SessionEntry(session, self._clock() + self.ttl_s, nbytes)
        self._bytes += nbytes
        self._evict()

    def get(self, sample_id: str) -> Session | None:
        """Return the session of an id; None if there is none or it has expired."""
        self._evict()
        entry = self._entries.get(sample_id)
        return None if entry is None or entry.expires_at <= self._clock() else entry.session

    def has(self, sample_id: str) -> bool:
        """Return whether an id has a session that is neither expired nor released."""
        return self.get(sample_id) is not None and not self._entries[sample_id].released

    def release(self, sample_id: str) -> None:
        """Let a session expire within `RELEASE_GRACE_S` seconds, unless it is stored again."""
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
