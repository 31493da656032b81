"""Means and covariances of features by group, and the Fréchet distance of what they describe.

d² = |m₁ - m₂|² + Tr(C₁ + C₂ - 2 (C₁C₂)^½) (Heusel et al. 2017, arXiv 1706.08500).
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_GROUPS = 50
"""Sample i is in group i modulo this. Sums by group are all that their errors need, so that memory
does not grow with the number of samples."""


class FeatureStatistics:
    """Sums over features, by group: enough for mean and covariance of any mixture of the groups.

    Args:
        centre: float64 [F], near the mean; it is subtracted, so that a large mean does not cost
            precision.
    """

    def __init__(self, centre: Tensor) -> None:
        self._centre = centre
        self.counts = torch.zeros(NUM_GROUPS, dtype=torch.float64)
        self._sums = torch.zeros(NUM_GROUPS, len(centre), dtype=torch.float64)
        self._products = torch.zeros(NUM_GROUPS, len(centre), len(centre), dtype=torch.float64)

    @property
    def count(self) -> int:
        """How many samples were added."""
        return int(self.counts.sum())

    def add(self, features: Tensor) -> None:
        """Count features [B, F] of the next samples."""
        first, rows = self.count, features.double() - self._centre
        for offset in range(min(NUM_GROUPS, len(rows))):
            group, some = (first + offset) % NUM_GROUPS, rows[offset::NUM_GROUPS]
            self.counts[group] += len(some)
            self._sums[group] += some.sum(0)
            self._products[group] += some.T @ some

    def mean_and_covariance(self, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean [F], less the centre, and covariance [F, F], where groups count as often as float64
        weights [G] say; None: once."""
        if weights is None:
            weights = torch.ones(NUM_GROUPS, dtype=torch.float64)
        count = weights @ self.counts
        mean = weights @ self._sums / count
        scatter = torch.tensordot(weights, self._products, 1) - count * torch.outer(mean, mean)
        return mean, scatter / (count - 1)


class Gaussian:
    """One side of many Fréchet distances.

    Args:
        mean: float64 [F].
        covariance: float64 [F, F].
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self._mean, self._covariance = mean, covariance
        values, vectors = torch.linalg.eigh(covariance)
        self._root = vectors * values.clamp_min(0).sqrt() @ vectors.T

    def frechet_distance(self, mean: Tensor, covariance: Tensor) -> float:
        """d² to another one; 0 is a perfect match."""
        # C₁C₂ has the eigenvalues of the symmetric C₁^½ C₂ C₁^½, whose roots are exact enough.
        middle = self._root @ covariance @ self._root
        roots = torch.linalg.eigvalsh(middle).clamp_min(0).sqrt()
        traces = self._covariance.trace() + covariance.trace()
        # Rounding can push the distance of equal sets a hair below zero.
        return max(0.0, float((self._mean - mean).square().sum() + traces - 2 * roots.sum()))
