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
from anytime_ar.runtime.json_store import JsonStore

_WINDOW_SIZE = 256
"""Observations kept of each kind."""
_LATEST_STEPS = 2
"""Steps of a draw that say how fast it is going now."""
_MAX_SLOWDOWN, _MAX_SPEEDUP = 1.25, (1.1, 1.6)
"""Beyond these, times of an earlier process no longer hold. Too short a time makes draws late, so
less is needed to drop one; too long a time costs codes, and refuses deadlines it could keep. How
much faster it may go now depends on how often those times were confirmed: never, or always."""
_MAX_AGE_S = 86_400.0
"""Times that are older are measured again."""
_SAFETY_SPREADS = 2.5
"""How many spreads to keep clear of a deadline."""


class LatencyWindow:
    """Recent observations of one duration, in seconds.

    Args:
        seconds: earlier observations, oldest first.
        window: how many are remembered.
    """

    def __init__(self, seconds: Iterable[float] = (), *, window: int = _WINDOW_SIZE) -> None:
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


class _CostRecord(Config):
    """`CostModel` as JSON."""

    first_code_s: tuple[NonNegativeFloat, ...]
    step_s: tuple[NonNegativeFloat, ...]
    decode_s: tuple[NonNegativeFloat, ...]
    confirmations: NonNegativeInt = 0
    measured_at: NonNegativeFloat = 0.0
    """When it was written, in seconds since 1970."""


class CostModel:
    """What draws of one number of rows take: the start, from the call to the first code, which
    comes from cold caches; a step, to each further code; and the finish, from the last code to the
    samples."""

    def __init__(
        self,
        first_code_s: Iterable[float] = (),
        step_s: Iterable[float] = (),
        decode_s: Iterable[float] = (),
        confirmations: int = 0,
    ) -> None:
        self.first_code, self.step, self.decode = (
            LatencyWindow(first_code_s),
            LatencyWindow(step_s),
            LatencyWindow(decode_s),
        )
        self.confirmations = confirmations
        """How many processes found that these times hold, beside the one that began with them: they
        may have been measured in a moment in which the machine had much else to do."""
        self.is_warm = False
        """Whether this process has drawn at this size before."""

    @property
    def is_measured(self) -> bool:
        """Whether there is anything to go by."""
        return all(len(times) > 0 for times in self._windows)

    @property
    def _windows(self) -> tuple[LatencyWindow, LatencyWindow, LatencyWindow]:
        return self.first_code, self.step, self.decode

    def clear(self) -> None:
        """Forget all observations."""
        self.first_code, self.step, self.decode, self.confirmations = (
            LatencyWindow(),
            LatencyWindow(),
            LatencyWindow(),
            0,
        )

    def merge(self, other: CostModel) -> None:
        """Take over all observations of another one."""
        for own, new in zip(self._windows, other._windows, strict=True):
            for seconds in new.to_tuple():
                own.add(seconds)

    def is_consistent_with(self, other: CostModel) -> bool:
        """Whether steps and finishes take no longer than others did, nor much less: the less, the
        more often those were confirmed."""
        unsure, sure = _MAX_SPEEDUP
        faster = sure - (sure - unsure) / (1 + other.confirmations)
        return all(
            old.quantile(0.5) / faster <= own.quantile(0.5) <= _MAX_SLOWDOWN * old.quantile(0.5)
            for own, old in zip(self._windows[1:], other._windows[1:], strict=True)
        )

    def min_latency_s(self, codes: int) -> float:
        """What a draw of some codes takes at best; a shorter deadline cannot be kept."""
        if codes == 0:
            return self.decode.quantile(0.05)
        steps_s = self.first_code.quantile(0.05) + (codes - 1) * self.step.quantile(0.05)
        return steps_s + self.decode.quantile(0.05)

    def reliable_deadline_s(self, codes: int) -> float:
        """What a draw of some codes can be relied on to keep to."""
        usual_s = self.first_code.quantile(0.5) + (codes - 1) * self.step.quantile(0.5)
        spread_s = math.hypot(
            self.first_code.spread, math.sqrt(codes - 1) * self.step.spread, self.decode.spread
        )
        return usual_s + self.decode.quantile(0.5) + _SAFETY_SPREADS * spread_s

    def reserve_s(self, slowdown: float = 1.0) -> float:
        """Time to set aside for one more code and the finish: at worst, but for rare stalls, which
        would otherwise cost every draw that comes after them."""
        usual_s = self.step.quantile(0.5) + self.decode.quantile(0.5)
        # Delays of the step and of the finish have nothing to do with one another, so they hardly
        # ever come together at their worst: they add up as spreads do.
        spread_s = math.hypot(self.step.spread, self.decode.spread)
        return slowdown * (usual_s + _SAFETY_SPREADS * spread_s)

    def to_record(self) -> dict[str, tuple[float, ...]]:
        """All observations, as JSON."""
        return {
            "first_code_s": self.first_code.to_tuple(),
            "step_s": self.step.to_tuple(),
            "decode_s": self.decode.to_tuple(),
        }


class LatencyTracker:
    """How one draw gets on, beside what draws of its size usually take.

    Args:
        cost_model: for its number of rows; the draw adds to them.
    """

    def __init__(self, cost_model: CostModel) -> None:
        self.cost_model = cost_model
        self._usual_s = cost_model.step.quantile(0.5) if cost_model.is_measured else math.inf
        self._latest: deque[float] = deque(maxlen=_LATEST_STEPS)
        self._setup_s: float | None = None

    def record_setup(self, seconds: float) -> None:
        """Take note of what it took until the first step begins."""
        self._setup_s = seconds

    def record_step(self, seconds: float) -> None:
        """Take note of what a step took."""
        if self._setup_s is not None:
            self.cost_model.first_code.add(self._setup_s + seconds)
            self._setup_s = None
        else:
            self.cost_model.step.add(seconds)
            self._latest.append(seconds)

    def record_decode(self, seconds: float) -> None:
        """Take note of what the finish took."""
        self.cost_model.decode.add(seconds)

    def next_code_and_decode_s(self) -> float:
        """What to set aside for one more code and the finish.

        When the latest steps of this draw took longer than usual, so will its finish.
        """
        slowdown = 1.0
        if len(self._latest) == _LATEST_STEPS:
            slowdown = max(1.0, sum(self._latest) / _LATEST_STEPS / self._usual_s)
        return self.cost_model.reserve_s(slowdown)


class CostModelStore:
    """Costs by what was timed (model, device, precision, rows), kept in a file between processes.

    Args:
        path: JSON; a file that does not read as a cost book is replaced at the next `save`.
        now: seconds since 1970.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._store, self._now = JsonStore(path, TypeAdapter(_CostRecord)), now
        self._cost_models: dict[str, CostModel] = {}

    def cost_model(self, key: str) -> CostModel:
        """Costs under a key, those of an earlier process to begin with unless they are old."""
        if key not in self._cost_models:
            record = self._store.get(key)
            if record is None or not 0 <= self._now() - record.measured_at <= _MAX_AGE_S:
                self._cost_models[key] = CostModel()
            else:
                self._cost_models[key] = CostModel(**record.model_dump(exclude={"measured_at"}))
        return self._cost_models[key]

    def save(self, key: str) -> None:
        """Put one entry into the file, beside what other processes have put there."""
        costs = self._cost_models[key]
        record = _CostRecord(
            **costs.to_record(), confirmations=costs.confirmations, measured_at=self._now()
        )
        try:
            self._store.update(key, lambda _: record)
        except InputError as error:  # a draw does not depend on it
            warnings.warn(
                f"could not keep measured times in {self._store.path}: {error}; "
                "the next process has to measure again",
                stacklevel=2,
            )
