"""What compares all pairs of two sets of features: the kernel distance, precision and recall.

The kernel distance is the unbiased squared maximum mean discrepancy with the kernel (x·y / F + 1)³
(Bińkowski et al. 2018, arXiv 1801.01401). Precision is the share of samples that lie within reach
of a real one, recall the share of real ones within reach of a sample, where each reaches to its
third neighbour in its own set (Kynkäänniemi et al. 2019, arXiv 1904.06991).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anytime_ar.evaluation.metrics.frechet_distance import NUM_GROUPS

NUM_NEIGHBOURS = 3
_BLOCK_ROWS = 128
"""Of a matrix of all pairs at a time."""


class RealFeatures:
    """The real set, by itself.

    Args:
        features: float64 [m, F].
    """

    def __init__(self, features: Tensor) -> None:
        self.features, self.squared_norms = features, features.square().sum(1)
        self.group_membership = _group_membership(len(features))
        squared_radii = []
        within = torch.zeros(NUM_GROUPS, NUM_GROUPS, dtype=torch.float64)
        blocks = (
            some.split(_BLOCK_ROWS)
            for some in (features, self.squared_norms, self.group_membership)
        )
        for rows, squares, members in zip(*blocks, strict=True):
            products = rows @ features.T
            within += members.T @ _kernel(products, features) @ self.group_membership
            squared_radii.append(
                _squared_radii(_squared_distances(products, squares, self.squared_norms))
            )
        self.reach = torch.cat(squared_radii)
        """Squared distance of each to its third neighbour: [m]."""
        self.kernel_sums = KernelSums.excluding_self(
            within, self.group_membership, _kernel(self.squared_norms, features)
        )


class PairwiseComparison:
    """Samples with one another and with the real set.

    Args:
        samples: float64 [n, F].
        real: what they are compared with.
        paired: each sample was made from the real one of the same number, n = m; the two are not
            compared, and in a mixture of groups the real ones are those of the samples.
    """

    def __init__(self, samples: Tensor, real: RealFeatures, *, paired: bool = False) -> None:
        self._paired, self._real_kernel_sums = paired, real.kernel_sums
        membership = _group_membership(len(samples))  # [n, G]
        within = torch.zeros(NUM_GROUPS, NUM_GROUPS, dtype=torch.float64)
        across = torch.zeros_like(within)
        all_squares, precision_hits = samples.square().sum(1), []
        recall_hits = torch.zeros(len(real.features), dtype=torch.bool)
        blocks = (some.split(_BLOCK_ROWS) for some in (samples, all_squares, membership))
        for rows, squares, members in zip(*blocks, strict=True):
            products = rows @ samples.T
            reach = _squared_radii(_squared_distances(products, squares, all_squares))
            within += members.T @ _kernel(products, samples) @ membership
            products = rows @ real.features.T
            distances = _squared_distances(products, squares, real.squared_norms)  # [rows, m]
            precision_hits.append((distances <= real.reach).any(1))
            recall_hits |= (distances <= reach[:, None]).any(0)
            across += members.T @ _kernel(products, samples) @ real.group_membership
        self.near = torch.cat(precision_hits)
        """Which samples are within reach of a real one: bool [n]."""
        self.reached = recall_hits
        """Which real ones are within reach of a sample: bool [m]."""
        self._sample_kernel_sums = KernelSums.excluding_self(
            within, membership, _kernel(all_squares, samples)
        )
        if paired:
            own = _kernel((samples * real.features).sum(1), samples)
            self._cross_kernel_sums = KernelSums.excluding_self(across, membership, own)
        else:
            counts = torch.outer(membership.sum(0), real.group_membership.sum(0))
            self._cross_kernel_sums = KernelSums(across, counts)

    def kernel_distance(self, weights: Tensor) -> float:
        """Where groups of samples count as often as float64 weights [G] say."""
        real = weights if self._paired else torch.ones_like(weights)
        return (
            self._sample_kernel_sums.mean(weights, weights)
            + self._real_kernel_sums.mean(real, real)
            - 2 * self._cross_kernel_sums.mean(weights, real)
        )


@dataclass(frozen=True)
class KernelSums:
    """The kernel over pairs of two sets, by groups of both."""

    sums: Tensor
    """float64 [G, G]."""
    counts: Tensor
    """How many pairs that are: float64 [G, G]."""

    @classmethod
    def excluding_self(
        cls, sums: Tensor, group_membership: Tensor, self_kernel: Tensor
    ) -> KernelSums:
        """Where nobody is compared with itself, of which `self_kernel` [n] is the kernel."""
        counts = group_membership.sum(0)
        return cls(
            sums - torch.diag(group_membership.T @ self_kernel),
            torch.outer(counts, counts) - torch.diag(counts),
        )

    def mean(self, rows: Tensor, columns: Tensor) -> float:
        """Over pairs, where groups count as often as float64 [G] say."""
        return float((rows @ self.sums @ columns) / (rows @ self.counts @ columns))


def _group_membership(count: int) -> Tensor:
    """Which group each of so many is in: float64 [count, G]."""
    return torch.nn.functional.one_hot(torch.arange(count) % NUM_GROUPS, NUM_GROUPS).double()


def _kernel(products: Tensor, features: Tensor) -> Tensor:
    """(x·y / F + 1)³ of the products x·y."""
    scaled = products / features.shape[1] + 1
    return scaled * scaled * scaled


def _squared_distances(products: Tensor, squares: Tensor, others: Tensor) -> Tensor:
    """Squared, of rows [n] and others [m] with these squares and products [n, m]."""
    return (squares[:, None] - 2 * products + others).clamp_min_(0)


def _squared_radii(distances: Tensor) -> Tensor:
    """To the third neighbour, or the last where there are fewer: [n, all] to [n]."""
    place = min(1 + NUM_NEIGHBOURS, distances.shape[1])  # the first is itself, or a twin
    return distances.topk(place, dim=1, largest=False).values[:, -1]
