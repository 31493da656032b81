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

from anytime_ar.sampling.costs import Times

_MANY = 1024
_RECENT = 5
_LATEST = 2
_REMEMBERED = 1024
_AVERAGED = 50
_FIRST_DELAY_S = 0.005
_RARE = 0.997
"""Delays that are rarer than this are not provided for."""


class Drift:
    """The factor by which something takes longer than estimated, and what it is delayed by now and
    then.

    The first observation is believed. From then on the factor follows a slower machine within two,
    as deadlines depend on it, and a faster one within three, so that a single quick one does not
    raise hopes. Delays are seconds:
    another process that takes the core does not care how long a step is.

    Args:
        delay_s: to be provided for until much has been seen.
    """

    def __init__(self, delay_s: float = 0.0) -> None:
        self._recent = deque([1.0], maxlen=_RECENT)
        self._mean = 1.0
        self.seen = False
        """Whether anything was observed."""
        self._delays = Times([delay_s], window=_REMEMBERED)

    @property
    def factor(self) -> float:
        """To be expected."""
        recent = sorted(self._recent)
        latest = list(self._recent)[-_LATEST:]
        return max(recent[(len(recent) - 1) // 2], sum(latest) / len(latest))

    @property
    def mean(self) -> float:
        """Over a while: what many of them take is the sum, not so many times the usual one."""
        return self._mean

    @property
    def delay_s(self) -> float:
        """To be provided for."""
        return self._delays.quantile(_RARE)

    def add(self, estimated_s: float, seconds: float) -> None:
        """Take note of what something took that the shape says takes `estimated_s`."""
        self._delays.add(max(0.0, seconds - estimated_s * self.factor))
        if not self.seen:  # an observation is worth more than what was given
            self._recent.clear()
            self.seen = True
        self._recent.append(seconds / estimated_s)
        self._mean += (seconds / estimated_s - self._mean) / _AVERAGED
        if not 0.5 < self._mean / self.factor < 2.0:  # something else than before
            self._mean = self.factor


@dataclass(frozen=True)
class Shape:
    """What a step, or a decode, takes on a machine that nothing disturbs, in seconds."""

    step_s: float
    """By itself."""
    row_s: float
    """For each row."""
    past_s: float
    """For each code that a row already has."""

    @classmethod
    def fit(cls, observed: Sequence[tuple[int, int, float]]) -> Shape:
        """The shape nearest to observations of (rows, codes that they have together, seconds)."""
        rows, past, seconds = np.array(observed, dtype=float).T
        # Relative errors: the steps of a few rows count as much as those of many.
        terms = np.stack([np.ones_like(rows), rows, past], 1) / seconds[:, None]
        (step_s, row_s, past_s), _ = nnls(terms, np.ones_like(seconds))
        return cls(float(step_s), float(row_s), float(past_s))

    @property
    def comfort(self) -> int:
        """Rows from which on a further one makes a step slower by what it adds, but for a tenth."""
        if self.row_s == 0:
            return _MANY
        return max(1, min(_MANY, math.ceil(10 * self.step_s / self.row_s)))

    def seconds(self, rows: int, past: int = 0) -> float:
        """Of one step of some rows that have `past` codes together."""
        return self.step_s + self.row_s * rows + self.past_s * past


class Costs:
    """What steps and decodes of one model take.

    Args:
        step: of the prior, by rows.
        decode: of the autoencoder, by samples.
        places: rows that the batch has room for.
    """

    def __init__(self, step: Shape, decode: Shape, places: int) -> None:
        self._step, self._decode, self.places = step, decode, places
        self.steps, self.decodes = Drift(), Drift()
        self._around_s = 0.0  # of a step, beside the model's own time

    @property
    def comfort(self) -> int:
        """Rows beyond which more of them at once bring nothing."""
        around_s = self._around_s / self.steps.mean
        whole = replace(self._step, step_s=self._step.step_s + around_s)
        return min(self.places, whole.comfort)

    @property
    def decoded_at_once(self) -> int:
        """Samples up to which decodes are quicker together: of more, the first ones would wait for
        the last."""
        return self._decode.comfort

    @property
    def delay_s(self) -> float:
        """By how much a step and a decode may be late together: each now and then, hardly ever
        both."""
        return max(self.steps.delay_s, self.decodes.delay_s)

    def step_s(self, rows: int, past: int) -> float:
        """A step of some rows that have `past` codes together."""
        return self._step.seconds(rows, past) * self.steps.factor + self._around_s

    def stepped(self, rows: int, past: int, seconds: float) -> None:
        """Take note of what a step took."""
        self.steps.add(self._step.seconds(rows, past), seconds)

    def turned(self, around_s: float) -> None:
        """Take note of what a turn of the scheduler took beside the model's own time."""
        self._around_s += (around_s - self._around_s) / _AVERAGED

    def work_s(self, rows: int, drawn: int, codes: int) -> float:
        """What it takes of the machine's time to bring rows from `drawn` to `codes` codes, as part
        of a batch that is full."""
        more = max(0, codes - drawn)
        past = more * (drawn + codes - 1) / 2  # summed over the steps
        comfort = self.comfort
        each_s = self._step.row_s + self._step.step_s / comfort
        model_s = rows * (more * each_s + past * self._step.past_s) * self.steps.mean
        return model_s + rows * more * self._around_s / comfort

    def sample_s(self, places: int, codes: int) -> float:
        """What one sample in some rows takes by itself, with some codes and decoded."""
        past = places * codes * (codes - 1) / 2  # summed over the steps
        steps_s = codes * self._step.seconds(places) + past * self._step.past_s
        return steps_s * self.steps.mean + codes * self._around_s + self.decode_work_s(1)

    @property
    def _decoding(self) -> Drift:
        """What is known of decodes: if none was seen yet, that the machine is as slow as for
        steps."""
        return self.decodes if self.decodes.seen else self.steps

    def decode_s(self, samples: int) -> float:
        """A decode of some samples."""
        return self._decode.seconds(samples) * self._decoding.factor

    def decode_work_s(self, samples: int) -> float:
        """What a decode takes of the machine's time."""
        return self._decode.seconds(samples) * self._decoding.mean

    def decoded(self, samples: int, seconds: float) -> None:
        """Take note of what a decode took."""
        self.decodes.add(self._decode.seconds(samples), seconds)


class Responses:
    """What it takes from decoded samples to the end of the response that brings them."""

    def __init__(self) -> None:
        self._shape, self._drift = Shape(0.0005, 0.0001, 0), Drift(_FIRST_DELAY_S)

    @property
    def delay_s(self) -> float:
        """By how much it may be late."""
        return self._drift.delay_s

    def usual_s(self, samples: int) -> float:
        """Seconds to be kept for a response with some samples."""
        return self._shape.seconds(samples) * self._drift.factor

    def add(self, samples: int, seconds: float) -> None:
        """Take note of what one took."""
        self._drift.add(self._shape.seconds(samples), seconds)
