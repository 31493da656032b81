"""What a step of the prior and a decode take on this machine: the cost model behind deadlines.

Times are kept as recent observations, not as one mean: a deadline is kept by reserving what a
decode takes at worst, and a mean says nothing about that. A draw compares its own steps with those
seen before, so that when another process takes the core in the middle of a draw, the time reserved
for the decode grows by as much as the steps did.
"""

from __future__ import annotations

import bisect
import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import NonNegativeFloat, NonNegativeInt, TypeAdapter

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.json_store import JsonStore

_WINDOW = 256
"""Observations kept of each kind."""
_LATEST = 2
"""Steps of a draw that say how fast it is going now."""
_SLOWER, _FASTER = 1.25, (1.1, 1.6)
"""Beyond these, times of an earlier process no longer hold. Too short a time makes draws late, so
less is needed to drop one; too long a time costs codes, and refuses deadlines it could keep. How
much faster it may go now depends on how often those times were confirmed: never, or always."""
_HELD_S = 86_400.0
"""Times that are older are measured again."""
_SAFETY = 2.5
"""How many spreads to keep clear of a deadline."""


class Times:
    """Recent observations of one duration, in seconds.

    Args:
        seconds: earlier observations, oldest first.
        window: how many are remembered.
    """

    def __init__(self, seconds: Iterable[float] = (), *, window: int = _WINDOW) -> None:
        self._recent = deque(seconds, maxlen=window)
        self._sorted = sorted(self._recent)

    def __len__(self) -> int:
        return len(self._recent)

    def add(self, seconds: float) -> None:
        """Take note of one more."""
        # Kept in order as they come: a draw adds one and asks for quantiles at every step.
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect.bisect_left(self._sorted, self._recent[0])]
        self._recent.append(seconds)
        bisect.insort(self._sorted, seconds)

    def quantile(self, share: float) -> float:
        """The shortest time that at least this share of the observations kept to."""
        return self._sorted[max(0, math.ceil(share * len(self._sorted)) - 1)]

    @property
    def spread(self) -> float:
        """How far the slowest lie above the middle, but for the very slowest: one at least."""
        slowest = min(math.ceil(0.98 * len(self._sorted)) - 1, max(0, len(self._sorted) - 2))
        return max(0.0, self._sorted[slowest] - self.quantile(0.5))

    def to_tuple(self) -> tuple[float, ...]:
        """All observations, oldest first, in tenths of microseconds."""
        return tuple(round(seconds, 7) for seconds in self._recent)


class _Record(Config):
    """`Costs` as JSON."""

    start_s: tuple[NonNegativeFloat, ...]
    step_s: tuple[NonNegativeFloat, ...]
    finish_s: tuple[NonNegativeFloat, ...]
    confirmed: NonNegativeInt = 0
    at: NonNegativeFloat = 0.0
    """When it was written, in seconds since 1970."""


class Costs:
    """What draws of one number of rows take: the start, from the call to the first code, which
    comes from cold caches; a step, to each further code; and the finish, from the last code to the
    samples."""

    def __init__(
        self,
        start_s: Iterable[float] = (),
        step_s: Iterable[float] = (),
        finish_s: Iterable[float] = (),
        confirmed: int = 0,
    ) -> None:
        self.start, self.step, self.finish = Times(start_s), Times(step_s), Times(finish_s)
        self.confirmed = confirmed
        """How many processes found that these times hold, beside the one that began with them: they
        may have been measured in a moment in which the machine had much else to do."""
        self.warm = False
        """Whether this process has drawn at this size before."""

    @property
    def known(self) -> bool:
        """Whether there is anything to go by."""
        return all(len(times) > 0 for times in self._all)

    @property
    def _all(self) -> tuple[Times, Times, Times]:
        return self.start, self.step, self.finish

    def clear(self) -> None:
        """Forget all observations."""
        self.start, self.step, self.finish, self.confirmed = Times(), Times(), Times(), 0

    def add(self, other: Costs) -> None:
        """Take over all observations of another one."""
        for own, new in zip(self._all, other._all, strict=True):
            for seconds in new.to_tuple():
                own.add(seconds)

    def agrees_with(self, other: Costs) -> bool:
        """Whether steps and finishes take no longer than others did, nor much less: the less, the
        more often those were confirmed."""
        unsure, sure = _FASTER
        faster = sure - (sure - unsure) / (1 + other.confirmed)
        return all(
            old.quantile(0.5) / faster <= own.quantile(0.5) <= _SLOWER * old.quantile(0.5)
            for own, old in zip(self._all[1:], other._all[1:], strict=True)
        )

    def least_s(self, codes: int) -> float:
        """What a draw of some codes takes at best; a shorter deadline cannot be kept."""
        if codes == 0:
            return self.finish.quantile(0.05)
        steps_s = self.start.quantile(0.05) + (codes - 1) * self.step.quantile(0.05)
        return steps_s + self.finish.quantile(0.05)

    def deadline_s(self, codes: int) -> float:
        """What a draw of some codes can be relied on to keep to."""
        usual_s = self.start.quantile(0.5) + (codes - 1) * self.step.quantile(0.5)
        spread_s = math.hypot(
            self.start.spread, math.sqrt(codes - 1) * self.step.spread, self.finish.spread
        )
        return usual_s + self.finish.quantile(0.5) + _SAFETY * spread_s

    def reserve_s(self, slowdown: float = 1.0) -> float:
        """Time to set aside for one more code and the finish: at worst, but for rare stalls, which
        would otherwise cost every draw that comes after them."""
        usual_s = self.step.quantile(0.5) + self.finish.quantile(0.5)
        # Delays of the step and of the finish have nothing to do with one another, so they hardly
        # ever come together at their worst: they add up as spreads do.
        spread_s = math.hypot(self.step.spread, self.finish.spread)
        return slowdown * (usual_s + _SAFETY * spread_s)

    def record(self) -> dict[str, tuple[float, ...]]:
        """All observations, as JSON."""
        return {
            "start_s": self.start.to_tuple(),
            "step_s": self.step.to_tuple(),
            "finish_s": self.finish.to_tuple(),
        }


class Pace:
    """How one draw gets on, beside what draws of its size usually take.

    Args:
        costs: for its number of rows; the draw adds to them.
    """

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self._usual_s = costs.step.quantile(0.5) if costs.known else math.inf
        self._latest: deque[float] = deque(maxlen=_LATEST)
        self._until_step_s: float | None = None

    def started(self, seconds: float) -> None:
        """Take note of what it took until the first step begins."""
        self._until_step_s = seconds

    def stepped(self, seconds: float) -> None:
        """Take note of what a step took."""
        if self._until_step_s is not None:
            self.costs.start.add(self._until_step_s + seconds)
            self._until_step_s = None
        else:
            self.costs.step.add(seconds)
            self._latest.append(seconds)

    def finished(self, seconds: float) -> None:
        """Take note of what the finish took."""
        self.costs.finish.add(seconds)

    def one_more_s(self) -> float:
        """What to set aside for one more code and the finish.

        When the latest steps of this draw took longer than usual, so will its finish.
        """
        slowdown = 1.0
        if len(self._latest) == _LATEST:
            slowdown = max(1.0, sum(self._latest) / _LATEST / self._usual_s)
        return self.costs.reserve_s(slowdown)


class CostBook:
    """Costs by what was timed (model, device, precision, rows), kept in a file between processes.

    Args:
        path: JSON; a file that does not read as a cost book is replaced at the next `save`.
        now: seconds since 1970.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._store, self._now = JsonStore(path, TypeAdapter(_Record)), now
        self._costs: dict[str, Costs] = {}

    def costs(self, key: str) -> Costs:
        """Costs under a key, those of an earlier process to begin with unless they are old."""
        if key not in self._costs:
            record = self._store.get(key)
            if record is None or not 0 <= self._now() - record.at <= _HELD_S:
                self._costs[key] = Costs()
            else:
                self._costs[key] = Costs(**record.model_dump(exclude={"at"}))
        return self._costs[key]

    def save(self, key: str) -> None:
        """Put one entry into the file, beside what other processes have put there."""
        costs = self._costs[key]
        record = _Record(**costs.record(), confirmed=costs.confirmed, at=self._now())
        try:
            self._store.update(key, lambda _: record)
        except InputError as error:  # a draw does not depend on it
            warnings.warn(
                f"could not keep measured times in {self._store.path}: {error}; "
                "the next process has to measure again",
                stacklevel=2,
            )
