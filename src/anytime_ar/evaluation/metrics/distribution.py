"""The reference of all distances between sets of samples, in the feature space of a network.

Standard errors come from the jackknife over groups of samples, with a fixed reference: they say how
much a metric varies with the seed of the samples. Each group is left out once, which takes one
eigendecomposition per group. A bootstrap of the same precision would take 200.
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
"""Maximum number of samples for kernel distance, precision and recall, which compare all pairs. The
samples are random, as the first ones of a sorted data set are of some classes only."""
NUM_QUERIES = 256
"""Maximum number of samples of each kind that are searched for in the training split."""


class DistributionComparison(NamedTuple):
    """The distances between a set of samples and the reference."""

    fd: float
    """Fréchet distance to the reference."""
    quality: DistributionMetrics
    """Further metrics and standard errors."""


class ReferenceDistribution:
    """Real samples, processed once and compared with any number of sets.

    Distances of finite sets are biased upwards, more so for small sets. Compare only distances of
    the same number of samples.

    Args:
        features: batches float32 [B, F] of the real samples.

    Raises:
        InputError: there are fewer than two samples, or features are not finite.
    """

    def __init__(self, features: Iterable[Tensor]) -> None:
        """Collect the statistics of the real samples."""
        self._centre: Tensor | None = None
        self._moments, rows = self._collect(features)
        self.count = self._moments.count
        """Number of real samples behind the distances."""
        self._gaussian = Gaussian(*self._moments.mean_and_covariance())
        self._pairs = RealFeatures(rows)

    def compare(
        self, features: Iterable[Tensor], *, paired: bool = False
    ) -> DistributionComparison:
        """Compare another set with the real samples.

        Args:
            features: batches float32 [B, F] of the set, in its order.
            paired: whether sample i was made from real sample i, as reconstructions are. The
                standard errors then say how much a metric varies with the real samples.

        Raises:
            InputError: there are fewer than two samples, features are not finite, or paired sets
                have different sizes.
        """
        sums, rows = self._collect(features)
        if paired and sums.count != self.count:
            raise InputError(
                f"{sums.count} samples cannot be made from {self.count} real ones, one from each"
            )
        pairs = PairwiseComparison(rows, self._pairs, paired=paired)

        def frechet(weights: Tensor) -> float:
            varies = paired and bool((weights != 1).any())
            real = (
                Gaussian(*self._moments.mean_and_covariance(weights)) if varies else self._gaussian
            )
            return real.frechet_distance(*sums.mean_and_covariance(weights))

        fd, fd_error = _jackknife(frechet, sums.count)
        kd, kd_error = _jackknife(pairs.kernel_distance, sums.count)
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
        """Return statistics of all features, and a random subset of them.

        The subset is float64 [m, F] with m up to `MAX_PAIRWISE_SAMPLES`.
        """
        sums, reservoir = None, Reservoir(MAX_PAIRWISE_SAMPLES)
        for batch in features:
            if not batch.isfinite().all():
                raise InputError(
                    "some features are not finite, so there is no distance; check that the samples "
                    "hold no NaN"
                )
            if self._centre is None:
                self._centre = batch.double().mean(0).cpu()
            rows = batch.cpu()
            if sums is None:
                sums = FeatureStatistics(self._centre)
            reservoir.add(rows.double())
            sums.add(rows)
        if sums is None or sums.count < 2:
            raise InputError(
                f"distances need at least 2 samples, got {0 if sums is None else sums.count}"
            )
        return sums, reservoir.rows


def _jackknife(figure: Callable[[Tensor], float], count: int) -> tuple[float, float | None]:
    """Return a metric and its jackknife standard error.

    Args:
        figure: computes the metric from float64 weights [G] of the groups.
        count: number of samples; with fewer than G, the standard error is None.
    """
    value = figure(torch.ones(NUM_GROUPS, dtype=torch.float64))
    if count < NUM_GROUPS:
        return value, None
    without = [figure(weights) for weights in 1 - torch.eye(NUM_GROUPS, dtype=torch.float64)]
    return value, (NUM_GROUPS - 1) / math.sqrt(NUM_GROUPS) * statistics.stdev(without)


def _proportion(hits: Tensor) -> tuple[float, float]:
    """Return the share of hits, bool [n], and its standard error."""
    share = float(hits.double().mean())
    return share, math.sqrt(share * (1 - share) / len(hits))


class Reservoir:
    """A random subset of the rows added, of a fixed size (Vitter 1985, algorithm R).

    Which rows are in the subset depends on their indices in the stream alone. Two streams of the
    same length therefore give the same indices in the same order, whatever their batches.

    Args:
        capacity: maximum number of rows.
    """

    def __init__(self, capacity: int) -> None:
        """Start with an empty subset and a fixed seed."""
        self._capacity, self._seen = capacity, 0
        self._rows: list[Tensor] = []
        self._random = np.random.Generator(np.random.Philox(key=0))

    def add(self, rows: Tensor) -> None:
        """Add the next rows [B, ...] of the stream."""
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
        """Rows of the subset, [up to capacity, ...]."""
        return torch.stack(self._rows)


def nearest_neighbour_distances(
    queries: Tensor, training: Iterable[Tensor], to_distance_space: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the distance of each query to its nearest training sample.

    Args:
        queries: float32 [n, *sample_shape].
        training: batches float32 [B, *sample_shape] of all training samples.
        to_distance_space: maps [B, *sample_shape] to [B, ...], in which distances are measured: the
            pixels of images, the spectra of audio.

    Returns:
        Euclidean distances, float32 [n].
    """
    looked_for = to_distance_space(queries).flatten(1)
    nearest = torch.full((len(queries),), torch.inf)
    for batch in training:
        distances = torch.cdist(looked_for, to_distance_space(batch).flatten(1))
        nearest = torch.minimum(nearest, distances.amin(1))
    return nearest
