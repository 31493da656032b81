"""Which replica takes a request: the one that is soonest done with what it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from anytime_ar.fleet.messages import ReplicaState

REPLICA_TIMEOUT_S = 2.0
"""A replica that has told nothing for this long is not counted on."""


@dataclass
class _ReplicaLoad:
    """What is known of a replica."""

    state: ReplicaState | None = None
    reported_at: float = 0.0
    """When that was."""
    in_flight: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Of calls under way: when they were sent, and the seconds of the machine that they take."""
    last_chosen: int = 0
    """When it was chosen last, in calls."""


class LoadBalancer:
    """Remembers what replicas tell of themselves, and what they were sent since.

    Seconds of work count, not requests: one may be sixteen samples in full and the other a code,
    and machines may differ.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._loads: dict[str, _ReplicaLoad] = {}
        self._count = 0

    def report(self, replica: str, state: ReplicaState) -> None:
        """Take note of how a replica is."""
        place = self._loads.setdefault(replica, _ReplicaLoad())
        place.state, place.reported_at = state, self._clock()

    def retain(self, running: Collection[str]) -> None:
        """Forget all others."""
        self._loads = {name: place for name, place in self._loads.items() if name in running}

    def state(self, replica: str) -> ReplicaState | None:
        """What a replica has told lately; None: nothing."""
        return self._loads[replica].state if self.silence_s(replica) <= REPLICA_TIMEOUT_S else None

    def start_call(self, replica: str, work_s: float) -> int:
        """A call is sent, of so much work; gives the number by which it is taken back."""
        self._count += 1
        place = self._loads.setdefault(replica, _ReplicaLoad())
        place.in_flight[self._count], place.last_chosen = (self._clock(), work_s), self._count
        return self._count

    def end_call(self, replica: str, call_id: int) -> None:
        """A call has ended."""
        if replica in self._loads:
            self._loads[replica].in_flight.pop(call_id, None)

    def wait_s(self, replica: str) -> float:
        """What a replica still has to do, as far as is known."""
        place, now = self._loads.get(replica, _ReplicaLoad()), self._clock()
        since = [(at, work_s) for at, work_s in place.in_flight.values() if at >= place.reported_at]
        begun = (
            place.reported_at
            if place.state is not None
            else min((at for at, _ in since), default=now)
        )
        work_s = 0.0 if place.state is None else place.state.backlog_s
        return max(0.0, work_s + sum(work_s for _, work_s in since) - (now - begun))

    def choose(self, among: Collection[str]) -> str | None:
        """The one with the least to do, of equals the one that was chosen least lately, of those
        the first by name; None: there is none."""

        def rank(replica: str) -> tuple[bool, float, int, str]:
            state = self.state(replica)
            chosen = self._loads.get(replica, _ReplicaLoad()).last_chosen
            waits = round(self.wait_s(replica), 3)
            return state is None or not state.ready, waits, chosen, replica

        return min(among, key=rank, default=None)

    def silence_s(self, replica: str) -> float:
        """For how long a replica has told nothing; infinite: it never did."""
        place = self._loads.get(replica, _ReplicaLoad())
        return math.inf if place.state is None else self._clock() - place.reported_at

    def sample_s(self, model: str | None) -> float:
        """What a sample of a model takes in full, of whichever replica said so last; None: of the
        usual model."""
        for place in sorted(self._loads.values(), key=lambda place: -place.reported_at):
            if place.state is not None and place.state.stats:
                work = place.state.stats
                one = work.get(model) if model is not None else next(iter(work.values()))
                return 0.0 if one is None else one.sample_s
        return 0.0
