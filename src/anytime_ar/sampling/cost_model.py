"""The cost model behind deadlines: how long prior steps and decodes take on this machine.

The model stores recent observations instead of a mean. A deadline is met by reserving the time of a
slow decode, which a mean does not give. A running call also compares its own steps with earlier
ones. If another process takes the core in between, the time reserved for the decode grows by the
same factor as the steps.
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
"""Number of observations stored of each kind."""
_LATEST_STEPS = 2
"""Number of latest steps that give the current speed."""
_MAX_STALL_RATIO = 4.0
"""Ratio of a step's time to the usual one up to which it counts, if another step was faster."""
_MAX_SLOWDOWN, _MAX_SPEEDUP = 1.25, (1.1, 1.6)
"""Ratios of new to old times beyond which times of an earlier process are dropped. Times that are
too short make samples late, so a smaller ratio drops them. Times that are too long cost codes and
refuse feasible deadlines. The two speed-ups hold for times that were never confirmed, and in the
limit of many confirmations."""
_MAX_AGE_S = 86_400.0
"""Age in seconds beyond which times are measured again."""
_SAFETY_SPREADS = 2.5
"""Safety margin before a deadline, in spreads."""


class LatencyWindow:
    """The most recent observations of one duration, in seconds.

    Args:
        seconds: earlier observations, oldest first.
        window: maximum number of observations.
    """

    def __init__(self, seconds: Iterable[float] = (), *, window: int = _WINDOW_SIZE) -> None:
        """Store the latest of the earlier observations."""
        self._recent = deque(seconds, maxlen=window)
        self._sorted = sorted(self._recent)

    def __len__(self) -> int:
        """Return the number of stored observations."""
        return len(self._recent)

    def add(self, seconds: float) -> None:
        """Add one observation, and drop the oldest if the window is full."""
        # The list stays sorted, because every step adds one observation and reads quantiles.
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect.bisect_left(self._sorted, self._recent[0])]
        self._recent.append(seconds)
        bisect.insort(self._sorted, seconds)

    def quantile(self, share: float) -> float:
        """Return the shortest observation that at least this share of all does not exceed."""
        return self._sorted[max(0, math.ceil(share * len(self._sorted)) - 1)]

    @property
    def spread(self) -> float:
        """Seconds from the median to the 98 % quantile, without the slowest observation."""
        slowest = min(math.ceil(0.98 * len(self._sorted)) - 1, max(0, len(self._sorted) - 2))
        return max(0.0, self._sorted[slowest] - self.quantile(0.5))

    def to_tuple(self) -> tuple[float, ...]:
        """Return all observations in seconds, oldest first, rounded to 0.1 microseconds."""
        return tuple(round(seconds, 7) for seconds in self._recent)


class _CostRecord(Config):
    """The JSON form of `CostModel`."""

    first_code_s: tuple[NonNegativeFloat, ...]
    step_s: tuple[NonNegativeFloat, ...]
    decode_s: tuple[NonNegativeFloat, ...]
    confirmations: NonNegativeInt = 0
    measured_at: NonNegativeFloat = 0.0
    """Time at which the record was written, in seconds since 1970."""


class CostModel:
    """Durations of sampling at one batch size: first code, further codes, and decode.

    The first code is timed from the call and comes from cold caches. A step draws each further
    code. The decode turns the codes into samples.

    Args:
        first_code_s: seconds from the call to the first code, oldest observation first.
        step_s: seconds of a step.
        decode_s: seconds of a decode.
        confirmations: number of processes that confirmed these times.
    """

    def __init__(
        self,
        first_code_s: Iterable[float] = (),
        step_s: Iterable[float] = (),
        decode_s: Iterable[float] = (),
        confirmations: int = 0,
    ) -> None:
        """Store earlier observations, if there are any."""
        self.first_code, self.step, self.decode = (
            LatencyWindow(first_code_s),
            LatencyWindow(step_s),
            LatencyWindow(decode_s),
        )
        self.confirmations = confirmations
        """Number of processes that confirmed these times, besides the one that measured them. Times
        may come from a moment at which the machine was busy."""
        self.is_warm = False
        """Whether this process has sampled at this batch size before."""

    @property
    def is_measured(self) -> bool:
        """Return whether there are observations of all three durations."""
        return all(len(times) > 0 for times in self._windows)

    @property
    def _windows(self) -> tuple[LatencyWindow, LatencyWindow, LatencyWindow]:
        return self.first_code, self.step, self.decode

    def clear(self) -> None:
        """Delete all observations and confirmations."""
        self.first_code, self.step, self.decode, self.confirmations = (
            LatencyWindow(),
            LatencyWindow(),
            LatencyWindow(),
            0,
        )

    def merge(self, other: CostModel) -> None:
        """Add all observations of another cost model to this one."""
        for own, new in zip(self._windows, other._windows, strict=True):
            for seconds in new.to_tuple():
                own.add(seconds)

    def is_consistent_with(self, other: CostModel) -> bool:
        """Return whether steps and decodes take about as long as in another cost model.

        The more often the other one was confirmed, the more these times may fall below its times.
        """
        unsure, sure = _MAX_SPEEDUP
        faster = sure - (sure - unsure) / (1 + other.confirmations)
        return all(
            old.quantile(0.5) / faster <= own.quantile(0.5) <= _MAX_SLOWDOWN * old.quantile(0.5)
            for own, old in zip(self._windows[1:], other._windows[1:], strict=True)
        )

    def min_latency_s(self, codes: int) -> float:
        """Return the seconds that a number of codes and their decode take at best.

        A shorter deadline cannot be met.
        """
        if codes == 0:
            return self.decode.quantile(0.05)
        steps_s = self.first_code.quantile(0.05) + (codes - 1) * self.step.quantile(0.05)
        return steps_s + self.decode.quantile(0.05)

    def reliable_deadline_s(self, codes: int) -> float:
        """Return a deadline in seconds that a number of codes and their decode meet reliably."""
        if codes == 0:
            return self.decode.quantile(0.5) + _SAFETY_SPREADS * self.decode.spread
        usual_s = self.first_code.quantile(0.5) + (codes - 1) * self.step.quantile(0.5)
        spread_s = math.hypot(
            self.first_code.spread, math.sqrt(codes - 1) * self.step.spread, self.decode.spread
        )
        return usual_s + self.decode.quantile(0.5) + _SAFETY_SPREADS * spread_s

    def suggested_deadline_s(self, codes: int) -> float:
        """Return a deadline to suggest to users, with two significant digits.

        It leaves room for a machine that is slower next time, as far as times of an earlier process
        still hold then.
        """
        seconds = _MAX_SLOWDOWN * self.reliable_deadline_s(codes)
        unit = 10.0 ** (math.floor(math.log10(max(seconds, 1e-6))) - 1)
        return float(f"{math.ceil(round(seconds / unit, 6)) * unit:.2g}")

    def reserve_s(self, slowdown: float = 1.0) -> float:
        """Return the seconds to reserve for one more code and the decode.

        The time is that of a slow step and a slow decode, without rare stalls, for which every
        later request would pay.

        Args:
            slowdown: factor by which the machine is now slower than usual, at least 1.
        """
        usual_s = self.step.quantile(0.5) + self.decode.quantile(0.5)
        # Delays of the step and of the decode are independent, so both are rarely at their worst
        # together: their spreads add up as standard deviations do.
        spread_s = math.hypot(self.step.spread, self.decode.spread)
        return slowdown * (usual_s + _SAFETY_SPREADS * spread_s)

    def to_record(self) -> dict[str, tuple[float, ...]]:
        """Return all observations in seconds as a JSON object."""
        return {
            "first_code_s": self.first_code.to_tuple(),
            "step_s": self.step.to_tuple(),
            "decode_s": self.decode.to_tuple(),
        }


class LatencyTracker:
    """Times one call and compares it with the usual times at its batch size.

    Args:
        cost_model: costs at this batch size, to which the observations are added.
    """

    def __init__(self, cost_model: CostModel) -> None:
        """Start without observations of this call."""
        self.cost_model = cost_model
        self._usual_s = cost_model.step.quantile(0.5) if cost_model.is_measured else math.inf
        self._latest: deque[float] = deque(maxlen=_LATEST_STEPS)
        self._setup_s: float | None = None

    def record_setup(self, seconds: float) -> None:
        """Record the seconds from the call to the first step."""
        self._setup_s = seconds

    def record_step(self, seconds: float) -> None:
        """Record the seconds of a step; the first one includes the set-up."""
        if self._setup_s is not None:
            self.cost_model.first_code.add(self._setup_s + seconds)
            self._setup_s = None
        else:
            self.cost_model.step.add(seconds)
            self._latest.append(seconds)

    def record_decode(self, seconds: float) -> None:
        """Record the seconds of a decode."""
        self.cost_model.decode.add(seconds)

    def next_code_and_decode_s(self) -> float:
        """Return the seconds to reserve for one more code and the decode.

        If the latest steps were slower than usual, the reserve grows by the same factor. A step
        among faster ones counts up to a limit: a stall says little about the next step.
        """
        slowdown = 1.0
        if len(self._latest) == _LATEST_STEPS:
            ratios = [seconds / self._usual_s for seconds in self._latest]
            mean = sum(min(ratio, _MAX_STALL_RATIO) for ratio in ratios) / _LATEST_STEPS
            slowdown = max(1.0, mean, min(ratios))
        return self.cost_model.reserve_s(slowdown)


class CostModelStore:
    """Cost models by key (model, device, precision, rows), stored in a file across processes.

    Args:
        path: JSON file; the next `save` replaces a file that is not a valid store.
        now: clock in seconds since 1970.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """Open the store; the file is read at the first `cost_model`."""
        self._store, self._now = JsonStore(path, TypeAdapter(_CostRecord)), now
        self._cost_models: dict[str, CostModel] = {}

    def cost_model(self, key: str) -> CostModel:
        """Return the cost model of a key.

        It starts with the times of an earlier process, unless they are older than one day.
        """
        if key not in self._cost_models:
            record = self._store.get(key)
            if record is None or not 0 <= self._now() - record.measured_at <= _MAX_AGE_S:
                self._cost_models[key] = CostModel()
            else:
                self._cost_models[key] = CostModel(**record.model_dump(exclude={"measured_at"}))
        return self._cost_models[key]

    def save(self, key: str) -> None:
        """Write the cost model of a key to the file and leave the other keys as they are."""
        costs = self._cost_models[key]
        record = _CostRecord(
            **costs.to_record(), confirmations=costs.confirmations, measured_at=self._now()
        )
        try:
            self._store.update(key, lambda _: record)
        except InputError as error:  # sampling works without the file
            warnings.warn(
                f"could not keep measured times in {self._store.path}: {error}; "
                "the next process has to measure again",
                stacklevel=2,
            )
