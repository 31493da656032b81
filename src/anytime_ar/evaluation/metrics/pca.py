"""Principal component analysis: the best linear ordered code, as a baseline for reconstruction.

The leading components come from subspace iteration over batches (Halko, Martinsson and Tropp 2011,
arXiv 0909.4061, section 4.5), so that memory is `dimensions x components` and the full covariance
of large images is never formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from anytime_ar.errors import InputError

_OVERSAMPLING = 16
_PASSES = 6


class PCA(NamedTuple):
    """A mean and orthonormal components, most important first."""

    mean: Tensor  # float64 [D]
    components: Tensor  # float64 [D, k]

    def squared_errors(self, x: Tensor) -> Tensor:
        """Squared error of each sample's reconstruction from its first 1, 2, .. k components.

        Args:
            x: float32 [B, ...], flattened to [B, D].

        Returns:
            float64 [B, k], summed over the D dimensions of a sample; never below 0.
        """
        centred = x.flatten(1).double() - self.mean  # [B, D]
        explained = (centred @ self.components).square().cumsum(dim=1)  # [B, k]
        return (centred.square().sum(dim=1, keepdim=True) - explained).clamp_min(0)


def fit_pca(batches: Callable[[], Iterable[Tensor]], components: int, *, seed: int = 0) -> PCA:
    """Fit the leading components in a few passes over the data.

    Args:
        batches: called once per pass; gives batches float32 [B, ...] of the same samples.
        components: how many to find; at most the number of dimensions D are returned.
        seed: of the random start.

    Raises:
        InputError: there are no samples.
    """
    total, count = torch.zeros(()), 0
    for x in batches():
        total = total + x.flatten(1).double().sum(dim=0)  # [D]
        count += len(x)
    if count == 0:
        raise InputError("PCA needs samples, and the training split has none")
    mean = total / count
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(
        len(mean),
        min(components + _OVERSAMPLING, len(mean)),
        generator=generator,
        dtype=torch.float64,
    )
    basis = torch.linalg.qr(start).Q  # [D, m]
    for _ in range(_PASSES):
        basis = torch.linalg.qr(_times_scatter(batches, mean, basis)).Q
    ritz = basis.T @ _times_scatter(batches, mean, basis)  # [m, m]
    order = torch.linalg.eigh((ritz + ritz.T) / 2).eigenvectors.flip(1)  # eigh sorts upwards
    return PCA(mean, (basis @ order)[:, :components])


def _times_scatter(batches: Callable[[], Iterable[Tensor]], mean: Tensor, basis: Tensor) -> Tensor:
    """The scatter matrix Σ (x - mean)(x - mean)ᵀ times `basis` [D, m]."""
    product = torch.zeros_like(basis)
    for x in batches():
        centred = x.flatten(1).double() - mean  # [B, D]
        product += centred.T @ (centred @ basis)
    return product
