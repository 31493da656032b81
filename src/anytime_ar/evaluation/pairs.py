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

from anytime_ar.evaluation.moments import GROUPS

NEIGHBOUR = 3
_ROWS = 128
"""Of a matrix of all pairs at a time."""


class RealPairs:
    """The real set, by itself.

    Args:
        features: float64 [m, F].
    """

    def __init__(self, features: Tensor) -> None:
        self.features, self.squares = features, features.square().sum(1)
        self.members = _members(len(features))
        reach = []
        within = torch.zeros(GROUPS, GROUPS, dtype=torch.float64)
        blocks = (some.split(_ROWS) for some in (features, self.squares, self.members))
        for rows, squares, members in zip(*blocks, strict=True):
            products = rows @ features.T
            within += members.T @ _kernel(products, features) @ self.members
            reach.append(_reach(_distances(products, squares, self.squares)))
        self.reach = torch.cat(reach)
        """Squared distance of each to its third neighbour: [m]."""
        self.kernel = KernelSums.within(within, self.members, _kernel(self.squares, features))


class Pairs:
    """Samples with one another and with the real set.

    Args:
        samples: float64 [n, F].
        real: what they are compared with.
        paired: each sample was made from the real one of the same number, n = m; the two are not
            compared, and in a mixture of groups the real ones are those of the samples.
    """

    def __init__(self, samples: Tensor, real: RealPairs, *, paired: bool = False) -> None:
        self._paired, self._real = paired, real.kernel
        membership = _members(len(samples))  # [n, G]
        within = torch.zeros(GROUPS, GROUPS, dtype=torch.float64)
        across = torch.zeros_like(within)
        all_squares, near = samples.square().sum(1), []
        reached = torch.zeros(len(real.features), dtype=torch.bool)
        blocks = (some.split(_ROWS) for some in (samples, all_squares, membership))
        for rows, squares, members in zip(*blocks, strict=True):
            products = rows @ samples.T
            reach = _reach(_distances(products, squares, all_squares))
            within += members.T @ _kernel(products, samples) @ membership
            products = rows @ real.features.T
            distances = _distances(products, squares, real.squares)  # [rows, m]
            near.append((distances <= real.reach).any(1))
            reached |= (distances <= reach[:, None]).any(0)
            across += members.T @ _kernel(products, samples) @ real.members
        self.near = torch.cat(near)
        """Which samples are within reach of a real one: bool [n]."""
        self.reached = reached
        """Which real ones are within reach of a sample: bool [m]."""
        self._samples = KernelSums.within(within, membership, _kernel(all_squares, samples))
        if paired:
            own = _kernel((samples * real.features).sum(1), samples)
            self._across = KernelSums.within(across, membership, own)
        else:
            counts = torch.outer(membership.sum(0), real.members.sum(0))
            self._across = KernelSums(across, counts)

    def kernel_distance(self, weights: Tensor) -> float:
        """Where groups of samples count as often as float64 weights [G] say."""
        real = weights if self._paired else torch.ones_like(weights)
        return (
            self._samples.mean(weights, weights)
            + self._real.mean(real, real)
            - 2 * self._across.mean(weights, real)
        )


@dataclass(frozen=True)
class KernelSums:
    """The kernel over pairs of two sets, by groups of both."""

    sums: Tensor
    """float64 [G, G]."""
    counts: Tensor
    """How many pairs that are: float64 [G, G]."""

    @classmethod
    def within(cls, sums: Tensor, members: Tensor, own: Tensor) -> KernelSums:
        """Where nobody is compared with itself, of which `own` [n] is the kernel."""
        counts = members.sum(0)
        return cls(
            sums - torch.diag(members.T @ own), torch.outer(counts, counts) - torch.diag(counts)
        )

    def mean(self, rows: Tensor, columns: Tensor) -> float:
        """Over pairs, where groups count as often as float64 [G] say."""
        return float((rows @ self.sums @ columns) / (rows @ self.counts @ columns))


def _members(count: int) -> Tensor:
    """Which group each of so many is in: float64 [count, G]."""
    return torch.nn.functional.one_hot(torch.arange(count) % GROUPS, GROUPS).double()


def _kernel(products: Tensor, features: Tensor) -> Tensor:
    """(x·y / F + 1)³ of the products x·y."""
    scaled = products / features.shape[1] + 1
    return scaled * scaled * scaled


def _distances(products: Tensor, squares: Tensor, others: Tensor) -> Tensor:
    """Squared, of rows [n] and others [m] with these squares and products [n, m]."""
    return (squares[:, None] - 2 * products + others).clamp_min_(0)


def _reach(distances: Tensor) -> Tensor:
    """To the third neighbour, or the last where there are fewer: [n, all] to [n]."""
    place = min(1 + NEIGHBOUR, distances.shape[1])  # the first is itself, or a twin
    return distances.topk(place, dim=1, largest=False).values[:, -1]
