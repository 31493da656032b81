"""Metrics over all pairs of two sets of features: kernel distance, precision and recall.

The kernel distance (KID) is the unbiased squared maximum mean discrepancy. Its kernel is
(x·y / F + 1)³ (Bińkowski et al. 2018, arXiv 1801.01401). Precision is the share of samples within
the radius of a real one. Recall is the share of real samples within the radius of a generated one.
The radius of a sample is the distance to the third nearest neighbour in its own set (Kynkäänniemi
et al. 2019, arXiv 1904.06991).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anytime_ar.evaluation.metrics.frechet_distance import NUM_GROUPS

NUM_NEIGHBOURS = 3
"""Index of the neighbour whose distance is the radius."""
_BLOCK_ROWS = 128
"""Number of rows of a matrix of all pairs that are in memory at a time."""


class RealFeatures:
    """The features of the real set, with the sums that involve no other set.

    Args:
        features: float64 [m, F].
    """

    def __init__(self, features: Tensor) -> None:
        """Compute radii and kernel sums within the set."""
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
        """Squared k-nearest-neighbour radius of each real sample: [m]."""
        self.kernel_sums = KernelSums.excluding_self(
            within, self.group_membership, _kernel(self.squared_norms, features)
        )


class PairwiseComparison:
    """All pairs within a set of samples, and between it and the real set.

    Args:
        samples: float64 [n, F].
        real: the real set.
        paired: whether sample i was made from real sample i, with n = m. Such pairs are not
            compared, and the weights of groups apply to both sets.
    """

    def __init__(self, samples: Tensor, real: RealFeatures, *, paired: bool = False) -> None:
        """Compute precision hits, recall hits and kernel sums."""
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
        """Precision hits, bool [n]: samples within the radius of a real one."""
        self.reached = recall_hits
        """Recall hits, bool [m]: real samples within the radius of a sample."""
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
        """Return the kernel distance of a mixture of the groups.

        Args:
            weights: float64 [G], how often each group of samples counts.
        """
        real = weights if self._paired else torch.ones_like(weights)
        return (
            self._sample_kernel_sums.mean(weights, weights)
            + self._real_kernel_sums.mean(real, real)
            - 2 * self._cross_kernel_sums.mean(weights, real)
        )


@dataclass(frozen=True)
class KernelSums:
    """The sums of the kernel over pairs of two sets, by the groups of both."""

    sums: Tensor
    """Sums of the kernel, float64 [G, G]."""
    counts: Tensor
    """Numbers of pairs in the sums, float64 [G, G]."""

    @classmethod
    def excluding_self(
        cls, sums: Tensor, group_membership: Tensor, self_kernel: Tensor
    ) -> KernelSums:
        """Return sums without the pairs of a sample and itself.

        Args:
            sums: sums over all pairs, float64 [G, G].
            group_membership: float64 [n, G], 1 at the group of each sample.
            self_kernel: kernel of each sample with itself, [n].
        """
        counts = group_membership.sum(0)
        return cls(
            sums - torch.diag(group_membership.T @ self_kernel),
            torch.outer(counts, counts) - torch.diag(counts),
        )

    def mean(self, rows: Tensor, columns: Tensor) -> float:
        """Return the mean of the kernel over the pairs of a mixture of the groups.

        Args:
            rows: float64 [G], weights of the groups of the first set.
            columns: float64 [G], weights of the groups of the second set.
        """
        return float((rows @ self.sums @ columns) / (rows @ self.counts @ columns))


def _group_membership(count: int) -> Tensor:
    """Return the group of each of `count` samples, one-hot: float64 [count, G]."""
    return torch.nn.functional.one_hot(torch.arange(count) % NUM_GROUPS, NUM_GROUPS).double()


def _kernel(products: Tensor, features: Tensor) -> Tensor:
    """Return the kernel (x·y / F + 1)³ of the products x·y."""
    scaled = products / features.shape[1] + 1
    return scaled * scaled * scaled


def _squared_distances(products: Tensor, squares: Tensor, others: Tensor) -> Tensor:
    """Return squared distances [n, m] of two sets.

    Args:
        products: products x·y, [n, m].
        squares: squared norms of the first set, [n].
        others: squared norms of the second set, [m].
    """
    return (squares[:, None] - 2 * products + others).clamp_min_(0)


def _squared_radii(distances: Tensor) -> Tensor:
    """Return the squared k-nearest-neighbour radius of each row: [n, all] to [n].

    With too few neighbours, the distance to the last one counts.
    """
    # The first neighbour is the sample itself, or a duplicate.
    place = min(1 + NUM_NEIGHBOURS, distances.shape[1])
    return distances.topk(place, dim=1, largest=False).values[:, -1]
