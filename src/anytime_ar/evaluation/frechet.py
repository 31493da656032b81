"""Fréchet distance between sets of samples, over the features of a given network.

Both sets are described by the mean and covariance of their features, and the distance of the two
Gaussians is d² = |m₁ - m₂|² + Tr(C₁ + C₂ - 2 (C₁C₂)^½) (Heusel et al. 2017, arXiv 1706.08500). The
formula and the running float64 sums are those of torchmetrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from anytime_ar.errors import InputError


class FrechetReference:
    """The real side of the distance, measured once and compared with any number of sets.

    The distance of finite sets is biased upwards, more so for small sets: compare only figures
    that come from the same number of samples.

    Args:
        network: maps a batch of samples to features [B, F], with an attribute `num_features`; used
            as it is, so put it in evaluation mode first.
        real: batches of real samples, float32 [B, ...].

    Raises:
        InputError: fewer than two samples, or features that are not finite.
    """

    def __init__(self, network: nn.Module, real: Iterable[Tensor]) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self._metric = FrechetInceptionDistance(
            feature=_ExactFeatures(network), reset_real_features=False
        )
        self.count = self._add(real, real=True)
        """The number of real samples."""

    def distance(self, samples: Iterable[Tensor]) -> float:
        """Fréchet distance of `samples` (batches [B, ...]) to the reference; 0 is a perfect match.

        Raises:
            InputError: fewer than two samples, or features that are not finite.
        """
        self._metric.reset()
        self._add(samples, real=False)
        # Rounding can push the distance of equal sets a hair below zero.
        return max(0.0, float(self._metric.compute()))

    def _add(self, batches: Iterable[Tensor], *, real: bool) -> int:
        seen = 0
        for batch in batches:
            self._metric.update(batch, real=real)
            seen += len(batch)
        if seen < 2:
            raise InputError(f"a Fréchet distance needs at least 2 samples, got {seen}")
        total = self._metric.real_features_sum if real else self._metric.fake_features_sum
        if not math.isfinite(float(total.sum())):
            raise InputError(
                "some features are not finite, so there is no Fréchet distance; check that the "
                "samples hold no NaN"
            )
        return seen


class _ExactFeatures(nn.Module):
    """The network on its own device, its features as float64 on the CPU.

    torchmetrics returns the distance in the features' precision, and some devices lack float64.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_features: int = network.num_features  # type: ignore[assignment]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        parameter = next(self.network.parameters(), None)
        features: Tensor = self.network(x if parameter is None else x.to(parameter.device))
        return features.cpu().double()
