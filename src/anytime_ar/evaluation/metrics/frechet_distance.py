"""The Fréchet distance, from means and covariances of features by group.

d² = |m₁ - m₂|² + Tr(C₁ + C₂ - 2 (C₁C₂)^½) (Heusel et al. 2017, arXiv 1706.08500).
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_GROUPS = 50
"""Number of groups, G: sample i is in group i mod G. The standard errors require only sums by
group, so memory does not grow with the number of samples."""


class FeatureStatistics:
    """Sums over features by group, for mean and covariance of any mixture of the groups.

    Args:
        centre: float64 [F], close to the mean. It is subtracted, so that a large mean does not
            reduce the precision.
    """

    def __init__(self, centre: Tensor) -> None:
        """Start with sums of zero."""
        self._centre = centre
        self.counts = torch.zeros(NUM_GROUPS, dtype=torch.float64)
        self._sums = torch.zeros(NUM_GROUPS, len(centre), dtype=torch.float64)
        self._products = torch.zeros(NUM_GROUPS, len(centre), len(centre), dtype=torch.float64)

    @property
    def count(self) -> int:
        """Number of samples that were added."""
        return int(self.counts.sum())

    def add(self, features: Tensor) -> None:
        """Add features [B, F] of the next samples."""
        first, rows = self.count, features.double() - self._centre
        for offset in range(min(NUM_GROUPS, len(rows))):
            group, some = (first + offset) % NUM_GROUPS, rows[offset::NUM_GROUPS]
            self.counts[group] += len(some)
            self._sums[group] += some.sum(0)
            self._products[group] += some.T @ some

    def mean_and_covariance(self, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the mean [F], less the centre, and the covariance [F, F].

        Args:
            weights: float64 [G], how often each group counts; None: once.
        """
        if weights is None:
            weights = torch.ones(NUM_GROUPS, dtype=torch.float64)
        count = weights @ self.counts
        mean = weights @ self._sums / count
        scatter = torch.tensordot(weights, self._products, 1) - count * torch.outer(mean, mean)
        return mean, scatter / (count - 1)


class Gaussian:
    """A normal distribution that is compared with many others.

    Args:
        mean: float64 [F].
        covariance: float64 [F, F].
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        """Compute the square root of the covariance."""
        self._mean, self._covariance = mean, covariance
        values, vectors = torch.linalg.eigh(covariance)
        self._root = vectors * values.clamp_min(0).sqrt() @ vectors.T

    def frechet_distance(self, mean: Tensor, covariance: Tensor) -> float:
        """Return the Fréchet distance d² to another normal distribution; 0 for an equal one.

        Args:
            mean: float64 [F].
            covariance: float64 [F, F].
        """
        # C₁C₂ has the eigenvalues of the symmetric C₁^½ C₂ C₁^½, which eigvalsh computes precisely.
        middle = self._root @ covariance @ self._root
        roots = torch.linalg.eigvalsh(middle).clamp_min(0).sqrt()
        traces = self._covariance.trace() + covariance.trace()
        # Rounding can make the distance of equal sets slightly negative.
        return max(0.0, float((self._mean - mean).square().sum() + traces - 2 * roots.sum()))
