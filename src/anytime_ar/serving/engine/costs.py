"""Cost models of steps, decodes and responses, corrected while serving.

At the start a few steps are timed, at several numbers of rows and positions. A linear cost is
fitted to them: a constant, a cost for each row, and a cost for each code that the rows already
have. From then on every observed step and decode corrects the estimates by a factor. Wrong first
estimates and a machine that slows down are corrected within a few steps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from anytime_ar.sampling.cost_model import LatencyWindow

_MAX_SATURATION_ROWS = 1024
_MEDIAN_WINDOW = 5
_LATEST_WINDOW = 2
_DELAY_WINDOW = 1024
_MEAN_WINDOW = 50
_INITIAL_DELAY_S = 0.005
_TAIL_QUANTILE = 0.997
"""Quantile of delays that schedules allow for. Rarer delays may miss deadlines."""


class CostCorrection:
    """A correction of cost estimates: the ratio of observed to estimated times, and their delays.

    The first observation replaces the initial factor. From then on the factor follows a slower
    machine within two observations, as deadlines depend on it. It follows a faster machine within
    three, so that a single quick observation does not lower the estimates. Delays are in seconds
    rather than relative: a process that takes the core delays short and long steps alike.

    Args:
        initial_delay_s: Delay in seconds to allow for until there are many observations.
    """

    def __init__(self, initial_delay_s: float = 0.0) -> None:
        """Start with factor 1 and the initial delay."""
        self._recent = deque([1.0], maxlen=_MEDIAN_WINDOW)
        self._mean_factor = 1.0
        self.has_observations = False
        """Whether there are observations yet."""
        self._delays = LatencyWindow([initial_delay_s], window=_DELAY_WINDOW)

    @property
    def factor(self) -> float:
        """Return the factor to expect for the next estimate."""
        recent = sorted(self._recent)
        latest = list(self._recent)[-_LATEST_WINDOW:]
        return max(recent[(len(recent) - 1) // 2], sum(latest) / len(latest))

    @property
    def mean_factor(self) -> float:
        """Return the mean factor over many observations.

        The total time of many steps is the sum of their times, which the mean predicts better than
        the median does.
        """
        return self._mean_factor

    @property
    def tail_delay_s(self) -> float:
        """Return the rare delay in seconds that schedules must allow for."""
        return self._delays.quantile(_TAIL_QUANTILE)

    def add(self, estimated_s: float, seconds: float) -> None:
        """Record an observation.

        Args:
            estimated_s: Estimate in seconds, before correction.
            seconds: Observed time in seconds.
        """
        self._delays.add(max(0.0, seconds - estimated_s * self.factor))
        if not self.has_observations:  # drop the initial factor
            self._recent.clear()
            self.has_observations = True
        self._recent.append(seconds / estimated_s)
        self._mean_factor += (seconds / estimated_s - self._mean_factor) / _MEAN_WINDOW
        if not 0.5 < self._mean_factor / self.factor < 2.0:  # the speed has changed
            self._mean_factor = self.factor


@dataclass(frozen=True)
class LinearCost:
    """Linear cost in seconds of a step or a decode on an idle machine."""

    base_s: float
    """Constant cost in seconds."""
    per_row_s: float
    """Further seconds for each row of the batch."""
    per_past_code_s: float
    """Seconds for each code that the rows already have."""

    @classmethod
    def fit(cls, observed: Sequence[tuple[int, int, float]]) -> LinearCost:
        """Fit the cost by non-negative least squares.

        Args:
            observed: (rows, number of codes that all rows have together, seconds) of each
                observation.
        """
        rows, past, seconds = np.array(observed, dtype=float).T
        # Minimise relative errors, so that steps of few rows count as much as those of many.
        terms = np.stack([np.ones_like(rows), rows, past], 1) / seconds[:, None]
        (step_s, row_s, past_s), _ = nnls(terms, np.ones_like(seconds))
        return cls(float(step_s), float(row_s), float(past_s))

    @property
    def saturation_rows(self) -> int:
        """Return the number of rows beyond which batching gains almost nothing.

        There the constant cost is at most a tenth of the cost of the rows.
        """
        if self.per_row_s == 0:
            return _MAX_SATURATION_ROWS
        return max(1, min(_MAX_SATURATION_ROWS, math.ceil(10 * self.base_s / self.per_row_s)))

    def seconds(self, rows: int, past_codes: int = 0) -> float:
        """Return the cost of one step in seconds.

        Args:
            rows: Number of rows, or of samples of a decode.
            past_codes: Number of codes that all rows have together.
        """
        return self.base_s + self.per_row_s * rows + self.per_past_code_s * past_codes


class BatchCostModel:
    """Cost model of the steps and decodes of one model.

    Args:
        step: Cost of a step of the prior, by rows.
        decode: Cost of a decode by the autoencoder, by samples.
        num_slots: Number of rows that the batch has room for.
    """

    def __init__(self, step: LinearCost, decode: LinearCost, num_slots: int) -> None:
        """Start from the fitted costs without corrections."""
        self._step_cost, self._decode_cost, self.num_slots = step, decode, num_slots
        self.step_correction, self.decode_correction = CostCorrection(), CostCorrection()
        self._overhead_s = 0.0  # seconds of an iteration outside the model

    @property
    def saturation_rows(self) -> int:
        """Return the number of rows beyond which batching gains nothing, at most `num_slots`."""
        around_s = self._overhead_s / self.step_correction.mean_factor
        whole = replace(self._step_cost, base_s=self._step_cost.base_s + around_s)
        return min(self.num_slots, whole.saturation_rows)

    @property
    def decode_batch_size(self) -> int:
        """Return the number of samples beyond which a joint decode gains nothing.

        In a larger decode the first samples would only wait for the last.
        """
        return self._decode_cost.saturation_rows

    @property
    def tail_delay_s(self) -> float:
        """Return the rare delay in seconds of a step and a decode together.

        It is the larger of both, as they are hardly ever delayed together.
        """
        return max(self.step_correction.tail_delay_s, self.decode_correction.tail_delay_s)

    def step_s(self, rows: int, past_codes: int) -> float:
        """Return the expected seconds of a step.

        Args:
            rows: Number of rows in the batch.
            past_codes: Number of codes that all rows have together.
        """
        return (
            self._step_cost.seconds(rows, past_codes) * self.step_correction.factor
            + self._overhead_s
        )

    def observe_step(self, rows: int, past_codes: int, seconds: float) -> None:
        """Record the seconds of a step of `rows` rows that have `past_codes` codes together."""
        self.step_correction.add(self._step_cost.seconds(rows, past_codes), seconds)

    def observe_overhead(self, overhead_s: float) -> None:
        """Record the seconds of an iteration of the scheduler that were spent outside the model."""
        self._overhead_s += (overhead_s - self._overhead_s) / _MEAN_WINDOW

    def sampling_work_s(self, rows: int, codes_drawn: int, codes: int) -> float:
        """Return the seconds of the machine's time to draw codes, as part of a full batch.

        Args:
            rows: Number of rows to draw for.
            codes_drawn: Number of codes that each row has.
            codes: Number of codes that each row is to have.
        """
        more = max(0, codes - codes_drawn)
        past = more * (codes_drawn + codes - 1) / 2  # summed over the steps
        saturation_rows = self.saturation_rows
        each_s = self._step_cost.per_row_s + self._step_cost.base_s / saturation_rows
        model_s = (
            rows
            * (more * each_s + past * self._step_cost.per_past_code_s)
            * self.step_correction.mean_factor
        )
        return model_s + rows * more * self._overhead_s / saturation_rows

    def sample_s(self, rows: int, codes: int) -> float:
        """Return the seconds to generate one sample alone.

        Args:
            rows: Number of rows of the sample: 1, or 2 with guidance.
            codes: Number of codes of the sample.
        """
        past = rows * codes * (codes - 1) / 2  # summed over the steps
        steps_s = codes * self._step_cost.seconds(rows) + past * self._step_cost.per_past_code_s
        return (
            steps_s * self.step_correction.mean_factor
            + codes * self._overhead_s
            + self.decode_work_s(1)
        )

    @property
    def _effective_decode_correction(self) -> CostCorrection:
        """Return the correction of decodes, or that of steps before the first observed decode."""
        return (
            self.decode_correction
            if self.decode_correction.has_observations
            else self.step_correction
        )

    def decode_s(self, samples: int) -> float:
        """Return the expected seconds of a decode of some samples."""
        return self._decode_cost.seconds(samples) * self._effective_decode_correction.factor

    def decode_work_s(self, samples: int) -> float:
        """Return the mean seconds of the machine's time for a decode of some samples."""
        return self._decode_cost.seconds(samples) * self._effective_decode_correction.mean_factor

    def observe_decode(self, samples: int, seconds: float) -> None:
        """Record the seconds that a decode of some samples took."""
        self.decode_correction.add(self._decode_cost.seconds(samples), seconds)


class ResponseCostModel:
    """Cost model of responses, from decoded samples to the end of the HTTP response."""

    def __init__(self) -> None:
        """Start from a default cost and a default delay."""
        self._cost, self._correction = (
            LinearCost(0.0005, 0.0001, 0),
            CostCorrection(_INITIAL_DELAY_S),
        )

    @property
    def tail_delay_s(self) -> float:
        """Return the rare delay of a response in seconds."""
        return self._correction.tail_delay_s

    def expected_s(self, samples: int) -> float:
        """Return the expected seconds of a response with some samples."""
        return self._cost.seconds(samples) * self._correction.factor

    def add(self, samples: int, seconds: float) -> None:
        """Record the seconds that a response with some samples took."""
        self._correction.add(self._cost.seconds(samples), seconds)
