"""What work takes here and now: how long steps and decodes will be, learned while serving.

At the start a few steps are timed, at several numbers of rows and positions, and give the shape: a
step costs something by itself, something for each row, and more the longer the row's past is. From
then on every step and decode tells by what factor the machine is off that shape, so that an
estimate that was wrong from the start, or a machine that slowed down, is put right within a few
steps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]

from anytime_ar.sampling.cost_model import LatencyWindow

_MAX_SATURATION_ROWS = 1024
_MEDIAN_WINDOW = 5
_LATEST_WINDOW = 2
_DELAY_WINDOW = 1024
_MEAN_WINDOW = 50
_INITIAL_DELAY_S = 0.005
_TAIL_QUANTILE = 0.997
"""Delays that are rarer than this are not provided for."""


class CostCorrection:
    """The factor by which something takes longer than estimated, and what it is delayed by now and
    then.

    The first observation is believed. From then on the factor follows a slower machine within two,
    as deadlines depend on it, and a faster one within three, so that a single quick one does not
    raise hopes. Delays are seconds:
    another process that takes the core does not care how long a step is.

    Args:
        initial_delay_s: to be provided for until much has been seen.
    """

    def __init__(self, initial_delay_s: float = 0.0) -> None:
        self._recent = deque([1.0], maxlen=_MEDIAN_WINDOW)
        self._mean_factor = 1.0
        self.has_observations = False
        """Whether anything was observed."""
        self._delays = LatencyWindow([initial_delay_s], window=_DELAY_WINDOW)

    @property
    def factor(self) -> float:
        """To be expected."""
        recent = sorted(self._recent)
        latest = list(self._recent)[-_LATEST_WINDOW:]
        return max(recent[(len(recent) - 1) // 2], sum(latest) / len(latest))

    @property
    def mean_factor(self) -> float:
        """Over a while: what many of them take is the sum, not so many times the usual one."""
        return self._mean_factor

    @property
    def tail_delay_s(self) -> float:
        """To be provided for."""
        return self._delays.quantile(_TAIL_QUANTILE)

    def add(self, estimated_s: float, seconds: float) -> None:
        """Take note of what something took that the shape says takes `estimated_s`."""
        self._delays.add(max(0.0, seconds - estimated_s * self.factor))
        if not self.has_observations:  # an observation is worth more than what was given
            self._recent.clear()
            self.has_observations = True
        self._recent.append(seconds / estimated_s)
        self._mean_factor += (seconds / estimated_s - self._mean_factor) / _MEAN_WINDOW
        if not 0.5 < self._mean_factor / self.factor < 2.0:  # something else than before
            self._mean_factor = self.factor


@dataclass(frozen=True)
class LinearCost:
    """What a step, or a decode, takes on a machine that nothing disturbs, in seconds."""

    base_s: float
    """By itself."""
    per_row_s: float
    """For each row."""
    per_past_code_s: float
    """For each code that a row already has."""

    @classmethod
    def fit(cls, observed: Sequence[tuple[int, int, float]]) -> LinearCost:
        """The shape nearest to observations of (rows, codes that they have together, seconds)."""
        rows, past, seconds = np.array(observed, dtype=float).T
        # Relative errors: the steps of a few rows count as much as those of many.
        terms = np.stack([np.ones_like(rows), rows, past], 1) / seconds[:, None]
        (step_s, row_s, past_s), _ = nnls(terms, np.ones_like(seconds))
        return cls(float(step_s), float(row_s), float(past_s))

    @property
    def saturation_rows(self) -> int:
        """Rows from which on a further one makes a step slower by what it adds, but for a tenth."""
        if self.per_row_s == 0:
            return _MAX_SATURATION_ROWS
        return max(1, min(_MAX_SATURATION_ROWS, math.ceil(10 * self.base_s / self.per_row_s)))

    def seconds(self, rows: int, past_codes: int = 0) -> float:
        """Of one step of some rows that have `past_codes` codes together."""
        return self.base_s + self.per_row_s * rows + self.per_past_code_s * past_codes


class BatchCostModel:
    """What steps and decodes of one model take.

    Args:
        step: of the prior, by rows.
        decode: of the autoencoder, by samples.
        num_slots: rows that the batch has room for.
    """

    def __init__(self, step: LinearCost, decode: LinearCost, num_slots: int) -> None:
        self._step_cost, self._decode_cost, self.num_slots = step, decode, num_slots
        self.step_correction, self.decode_correction = CostCorrection(), CostCorrection()
        self._overhead_s = 0.0  # of a step, beside the model's own time

    @property
    def saturation_rows(self) -> int:
        """Rows beyond which more of them at once bring nothing."""
        around_s = self._overhead_s / self.step_correction.mean_factor
        whole = replace(self._step_cost, base_s=self._step_cost.base_s + around_s)
        return min(self.num_slots, whole.saturation_rows)

    @property
    def decode_batch_size(self) -> int:
        """Samples up to which decodes are quicker together: of more, the first ones would wait for
        the last."""
        return self._decode_cost.saturation_rows

    @property
    def tail_delay_s(self) -> float:
        """By how much a step and a decode may be late together: each now and then, hardly ever
        both."""
        return max(self.step_correction.tail_delay_s, self.decode_correction.tail_delay_s)

    def step_s(self, rows: int, past_codes: int) -> float:
        """A step of some rows that have `past_codes` codes together."""
        return (
            self._step_cost.seconds(rows, past_codes) * self.step_correction.factor
            + self._overhead_s
        )

    def observe_step(self, rows: int, past_codes: int, seconds: float) -> None:
        """Take note of what a step took."""
        self.step_correction.add(self._step_cost.seconds(rows, past_codes), seconds)

    def observe_overhead(self, overhead_s: float) -> None:
        """Take note of what a turn of the scheduler took beside the model's own time."""
        self._overhead_s += (overhead_s - self._overhead_s) / _MEAN_WINDOW

    def sampling_work_s(self, rows: int, codes_drawn: int, codes: int) -> float:
        """What it takes of the machine's time to bring rows from `codes_drawn` to `codes` codes, as part
        of a batch that is full."""
        more = max(0, codes - codes_drawn)
        past = more * (codes_drawn + codes - 1) / 2  # summed over the steps
        comfort = self.saturation_rows
        each_s = self._step_cost.per_row_s + self._step_cost.base_s / comfort
        model_s = (
            rows
            * (more * each_s + past * self._step_cost.per_past_code_s)
            * self.step_correction.mean_factor
        )
        return model_s + rows * more * self._overhead_s / comfort

    def sample_s(self, rows: int, codes: int) -> float:
        """What one sample in some rows takes by itself, with some codes and decoded."""
        past = rows * codes * (codes - 1) / 2  # summed over the steps
        steps_s = codes * self._step_cost.seconds(rows) + past * self._step_cost.per_past_code_s
        return (
            steps_s * self.step_correction.mean_factor
            + codes * self._overhead_s
            + self.decode_work_s(1)
        )

    @property
    def _effective_decode_correction(self) -> CostCorrection:
        """What is known of decodes: if none was seen yet, that the machine is as slow as for
        steps."""
        return (
            self.decode_correction
            if self.decode_correction.has_observations
            else self.step_correction
        )

    def decode_s(self, samples: int) -> float:
        """A decode of some samples."""
        return self._decode_cost.seconds(samples) * self._effective_decode_correction.factor

    def decode_work_s(self, samples: int) -> float:
        """What a decode takes of the machine's time."""
        return self._decode_cost.seconds(samples) * self._effective_decode_correction.mean_factor

    def observe_decode(self, samples: int, seconds: float) -> None:
        """Take note of what a decode took."""
        self.decode_correction.add(self._decode_cost.seconds(samples), seconds)


class ResponseCostModel:
    """What it takes from decoded samples to the end of the response that brings them."""

    def __init__(self) -> None:
        self._cost, self._correction = (
            LinearCost(0.0005, 0.0001, 0),
            CostCorrection(_INITIAL_DELAY_S),
        )

    @property
    def tail_delay_s(self) -> float:
        """By how much it may be late."""
        return self._correction.tail_delay_s

    def expected_s(self, samples: int) -> float:
        """Seconds to be kept for a response with some samples."""
        return self._cost.seconds(samples) * self._correction.factor

    def add(self, samples: int, seconds: float) -> None:
        """Take note of what one took."""
        self._correction.add(self._cost.seconds(samples), seconds)
