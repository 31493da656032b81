"""The real side of all distances between sets of samples, over the features of a network.

Errors are standard errors by the jackknife over groups of samples, the reference held: how much a
figure changes with the seed of the samples. Each group is left out once, which takes one
eigendecomposition a group (a bootstrap as exact would take 200).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anytime_ar.bundle.curve import DistributionMetrics
from anytime_ar.errors import InputError
from anytime_ar.evaluation.metrics.frechet_distance import NUM_GROUPS, FeatureStatistics, Gaussian
from anytime_ar.evaluation.metrics.kid_precision_recall import PairwiseComparison, RealFeatures

MAX_PAIRWISE_SAMPLES = 5_000
"""Kernel distance, precision and recall compare all pairs, of so many samples at most, drawn at
random: the first ones of a sorted data set show some classes only."""


class DistributionComparison(NamedTuple):
    """A set of samples beside the reference."""

    fd: float
    """Fréchet distance."""
    quality: DistributionMetrics


class ReferenceDistribution:
    """Real samples, measured once and compared with any number of sets.

    Distances of finite sets are biased upwards, more so for small sets: compare only figures that
    come from the same number of samples.

    Args:
        features: of the real samples, float32 [B, F] at a time.

    Raises:
        InputError: fewer than two samples, or features that are not finite.
    """

    def __init__(self, features: Iterable[Tensor]) -> None:
        self._centre: Tensor | None = None
        self._moments, kept = self._collect(features)
        self.count = self._moments.count
        """The number of real samples."""
        self._gaussian = Gaussian(*self._moments.mean_and_covariance())
        self._pairs = RealFeatures(kept)

    def compare(
        self, features: Iterable[Tensor], *, paired: bool = False
    ) -> DistributionComparison:
        """How far another set is: features float32 [B, F] at a time.

        Args:
            features: of the set, in its order.
            paired: sample i was made from real sample i, as reconstructions are. Errors then say
                how much a figure changes with the real samples.

        Raises:
            InputError: as at construction, or paired sets are of different size.
        """
        moments, kept = self._collect(features)
        if paired and moments.count != self.count:
            raise InputError(
                f"{moments.count} samples cannot be made from {self.count} real ones, one from each"
            )
        pairs = PairwiseComparison(kept, self._pairs, paired=paired)

        def frechet(weights: Tensor) -> float:
            varies = paired and bool((weights != 1).any())
            real = (
                Gaussian(*self._moments.mean_and_covariance(weights)) if varies else self._gaussian
            )
            return real.frechet_distance(*moments.mean_and_covariance(weights))

        fd, fd_error = _jackknife(frechet, moments.count)
        kd, kd_error = _jackknife(pairs.kernel_distance, moments.count)
        precision, precision_error = _proportion(pairs.near)
        recall, recall_error = _proportion(pairs.reached)
        return DistributionComparison(
            fd,
            DistributionMetrics(
                fd_stderr=fd_error,
                kd=kd,
                kd_stderr=kd_error,
                precision=precision,
                precision_stderr=precision_error,
                recall=recall,
                recall_stderr=recall_error,
            ),
        )

    def _collect(self, features: Iterable[Tensor]) -> tuple[FeatureStatistics, Tensor]:
        """Moments of all, and some of them: float64 [up to KEPT, F]."""
        moments, kept = None, Reservoir(MAX_PAIRWISE_SAMPLES)
        for batch in features:
            if not batch.isfinite().all():
                raise InputError(
                    "some features are not finite, so there is no distance; check that the samples "
                    "hold no NaN"
                )
            if self._centre is None:
                self._centre = batch.double().mean(0).cpu()
            rows = batch.cpu()
            if moments is None:
                moments = FeatureStatistics(self._centre)
            kept.add(rows.double())
            moments.add(rows)
        if moments is None or moments.count < 2:
            raise InputError(
                f"distances need at least 2 samples, got {0 if moments is None else moments.count}"
            )
        return moments, kept.rows


def _jackknife(figure: Callable[[Tensor], float], count: int) -> tuple[float, float | None]:
    """A figure of all groups and, where none is empty, its standard error; `figure` is given how
    often each group counts."""
    value = figure(torch.ones(NUM_GROUPS, dtype=torch.float64))
    if count < NUM_GROUPS:
        return value, None
    without = [figure(weights) for weights in 1 - torch.eye(NUM_GROUPS, dtype=torch.float64)]
    return value, (NUM_GROUPS - 1) / math.sqrt(NUM_GROUPS) * statistics.stdev(without)


def _proportion(hits: Tensor) -> tuple[float, float]:
    """Of bool [n], and its standard error."""
    share = float(hits.double().mean())
    return share, math.sqrt(share * (1 - share) / len(hits))


class Reservoir:
    """Keeps up to `capacity` rows of what is added (Vitter 1985, algorithm R).

    Which ones depends on their number in the stream alone: of two streams of one length, rows of
    the same numbers are kept, in the same places, however they came in batches.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity, self._seen = capacity, 0
        self._rows: list[Tensor] = []
        self._random = np.random.Generator(np.random.Philox(key=0))

    def add(self, rows: Tensor) -> None:
        """The next rows [B, ...]."""
        free = max(0, self._capacity - self._seen)
        self._rows += rows[:free].unbind()
        late = range(self._seen + min(free, len(rows)), self._seen + len(rows))
        chances = self._random.random(len(late))
        for number, chance in zip(late, chances, strict=True):
            place = int(chance * (number + 1))
            if place < self._capacity:
                self._rows[place] = rows[number - self._seen]
        self._seen += len(rows)

    @property
    def rows(self) -> Tensor:
        """What is kept: [up to capacity, ...]."""
        return torch.stack(self._rows)
