"""Measures a model and its baselines at every budget, on one data set.

One draw of codes serves every budget, because the codes of a shorter draw are a prefix of a longer
one; so does one encoding of the test split.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anytime_ar.codes import bits
from anytime_ar.curve import (
    BaselinePoint,
    Baselines,
    Curve,
    CurvePoint,
    PCAPoint,
    lossless_codes,
    psnr,
)
from anytime_ar.errors import InputError
from anytime_ar.evaluation.features import FeatureNetwork
from anytime_ar.evaluation.frechet import FrechetReference
from anytime_ar.evaluation.pca import fit_pca
from anytime_ar.evaluation.protocols import Codec, Model, Progress, Split, Splits, silent

_TIMED_DRAWS = 5


@torch.no_grad()
def evaluate(
    model: Codec,
    data: Splits,
    features: FeatureNetwork | None,
    *,
    samples: int = 10_000,
    codes: Sequence[int] | None = None,
    unordered: Codec | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress = silent,
    clock: Callable[[], float] = time.perf_counter,
) -> Curve:
    """Measure reconstruction, samples and time at each number of codes, with both baselines.

    The reference of every Fréchet distance is the test split. The floor is the distance of as many
    training samples, drawn at random, as the test split has (or as the training split has).

    Args:
        model: the ordered model; where it has no prior, its samples and time are left out.
        data: training split (for PCA and the floor) and test split (for all else).
        features: the network of the Fréchet distances; None leaves them out.
        samples: how many samples are drawn for fd_sample.
        codes: the budgets to measure; None for all of 1..L.
        unordered: the same autoencoder trained without truncation, or None. Where it has a prior
            its samples are measured too.
        seed: of the samples.
        batch_size: samples decoded together.
        progress: called after every measurement.
        clock: seconds, for `ms`: one sample at batch 1, median of 5 draws after a warm-up.

    Raises:
        InputError: a budget out of range, shapes that do not fit, or an empty test split.
    """
    budgets = _budgets(model, codes)
    test_samples = _count(data.test)
    _check(model, data, features, unordered, samples, test_samples)
    sampler = _sampler(model)
    study = _Study(
        data=data,
        batch_size=batch_size,
        test_samples=test_samples,
        samples=samples,
        seed=seed,
        reference=None
        if features is None
        else FrechetReference(features, _data(data.test, batch_size)),
        progress=progress,
        total=len(budgets) * (2 + (sampler is not None) + 2 * (unordered is not None)) + 1,
    )
    # A stream of unknown size is taken to be large; it starts again if it is not.
    train_samples = test_samples if data.train.size is None else data.train.size
    floor_samples = 0 if features is None else min(test_samples, train_samples)
    floor = study.distance(_random(data.train, floor_samples, batch_size, seed))
    ordered = study.quality(model, budgets, "ordered")
    milliseconds = [
        None if sampler is None else study.milliseconds(sampler, k, clock) for k in budgets
    ]
    points = tuple(
        CurvePoint(**dict(point), bits=bits(point.codes, model.vocabulary), ms=ms)
        for point, ms in zip(ordered, milliseconds, strict=True)
    )
    baselines = Baselines(
        unordered=() if unordered is None else study.quality(unordered, budgets, "unordered"),
        pca=study.pca(budgets),
    )
    return Curve(
        code_length=model.code_length,
        vocabulary=model.vocabulary,
        points=points,
        lossless_codes=lossless_codes(points),
        floor=floor,
        floor_samples=floor_samples,
        samples=samples,
        test_samples=test_samples,
        seed=seed,
        baselines=baselines,
    )


@dataclass
class _Study:
    """What all measurements of one evaluation share."""

    data: Splits
    batch_size: int
    test_samples: int
    samples: int
    seed: int
    reference: FrechetReference | None
    progress: Progress
    total: int
    done: int = field(default=0)

    def quality(self, codec: Codec, budgets: Sequence[int], name: str) -> tuple[BaselinePoint, ...]:
        """Reconstruction and, where there is a prior, sample quality at each budget."""
        encoded = [codec.encode(x).cpu() for x in _data(self.data.test, self.batch_size)]
        drawn: Tensor | None = None
        sampler = _sampler(codec)
        if sampler is not None and self.reference is not None:
            drawn = sampler.sample_codes(self.samples, codes=budgets[-1], seed=self.seed).cpu()
        points = []
        for k in budgets:
            error = _SquaredError()
            reconstructions = self._reconstructions(codec, encoded, k, error)
            fd_reconstruction = self.distance(reconstructions)
            for _ in reconstructions:  # without a reference nobody has consumed them
                pass
            self._tick(f"{name}, reconstruction from {k} codes")
            fd_sample = None
            if drawn is not None:
                parts = torch.split(drawn[:, :k], self.batch_size)
                fd_sample = self.distance(codec.decode(part).cpu() for part in parts)
            self._tick(f"{name}, samples of {k} codes")
            points.append(
                BaselinePoint(
                    codes=k,
                    mse=error.mean,
                    psnr=psnr(error.mean),
                    fd_reconstruction=fd_reconstruction,
                    fd_sample=fd_sample,
                )
            )
        return tuple(points)

    def milliseconds(self, model: Model, k: int, clock: Callable[[], float]) -> float:
        """Median wall time of one sample of k codes at batch 1."""
        times = []
        for draw in range(1 + _TIMED_DRAWS):
            start = clock()
            model.sample(1, codes=k, seed=self.seed + draw).cpu()  # waits for the device
            times.append(clock() - start)
        self._tick(f"time of {k} codes")
        return 1000 * statistics.median(times[1:])  # the first draw warms up

    def pca(self, budgets: Sequence[int]) -> tuple[PCAPoint, ...]:
        """Reconstruction error of PCA, for budgets up to the number of dimensions."""
        train, test = self.data.train, self.data.test
        fitted = fit_pca(lambda: _data(train, self.batch_size), budgets[-1])
        total = torch.zeros(fitted.components.shape[1], dtype=torch.float64)
        for x in _data(test, self.batch_size):
            total += fitted.squared_errors(x).sum(dim=0)
        errors = (total / (self.test_samples * len(fitted.mean))).tolist()
        self._tick("PCA")
        return tuple(PCAPoint(codes=k, mse=errors[k - 1]) for k in budgets if k <= len(errors))

    def distance(self, samples: Iterator[Tensor]) -> float | None:
        return None if self.reference is None else self.reference.distance(samples)

    def _reconstructions(
        self, codec: Codec, encoded: Sequence[Tensor], k: int, error: _SquaredError
    ) -> Iterator[Tensor]:
        for x, codes in zip(_data(self.data.test, self.batch_size), encoded, strict=True):
            decoded = codec.decode(codes[:, :k]).cpu()
            error.add(decoded, x)
            yield decoded

    def _tick(self, what: str) -> None:
        self.done += 1
        self.progress(self.done, self.total, what)


class _SquaredError:
    """A running mean over every value of every sample, in float64."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, decoded: Tensor, x: Tensor) -> None:
        self.total += float((decoded.double() - x.double()).square().sum())
        self.count += x.numel()

    @property
    def mean(self) -> float:
        return self.total / self.count


def _sampler(codec: Codec) -> Model | None:
    """The codec as a model to sample from, where it has a prior."""
    return codec if isinstance(codec, Model) and codec.can_sample else None


def _budgets(model: Codec, codes: Sequence[int] | None) -> list[int]:
    budgets = list(range(1, model.code_length + 1)) if codes is None else sorted(set(codes))
    wrong = [k for k in budgets if not 1 <= k <= model.code_length]
    if wrong or not budgets:
        raise InputError(
            f"codes {wrong} are outside 1..{model.code_length}, the model's code length"
            if wrong
            else "codes is empty; pass at least one number of codes, or None for all"
        )
    return budgets


def _check(
    model: Codec,
    data: Splits,
    features: FeatureNetwork | None,
    unordered: Codec | None,
    samples: int,
    test_samples: int,
) -> None:
    if samples < 2:
        raise InputError(f"samples must be at least 2 for a Fréchet distance, got {samples}")
    if test_samples < 2 or (data.train.size is not None and data.train.size < 2):
        raise InputError(
            f"evaluation needs at least 2 training and 2 test samples, got {data.train.size} and "
            f"{test_samples}"
        )
    shape = tuple(next(data.test.batches(1)).data.shape[1:])
    if shape != tuple(model.sample_shape):
        raise InputError(
            f"the data set's samples are {shape} and the model's {tuple(model.sample_shape)}; "
            "evaluate on the data set that the model was trained on"
        )
    if features is not None and features.sample_shape != shape:
        raise InputError(
            f"the features are for samples of shape {features.sample_shape}, the data set's are "
            f"{shape}; train features on this data set with `anytime features`"
        )
    if unordered is not None and unordered.code_length != model.code_length:
        raise InputError(
            f"the unordered baseline has {unordered.code_length} codes and the model "
            f"{model.code_length}; train the baseline with the model's configuration"
        )


def _count(split: Split) -> int:
    return sum(len(x) for x in _data(split, 1024)) if split.size is None else split.size


def _data(split: Split, batch_size: int) -> Iterator[Tensor]:
    return (batch.data for batch in split.batches(batch_size))


def _random(split: Split, count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """`count` samples drawn at random: the first ones of a sorted data set show one class only."""
    batches = split.shuffled(batch_size, seed)
    while count > 0:
        batch = next(batches).data[:count]
        count -= len(batch)
        yield batch
