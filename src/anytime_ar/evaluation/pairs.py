"""What compares all pairs of two sets of features: the kernel distance, precision and recall.

The kernel distance is the unbiased squared maximum mean discrepancy with the kernel (x·y / F + 1)³
(Bińkowski et al. 2018, arXiv 1801.01401). Precision is the share of samples that lie within reach
of a real one, recall the share of real ones within reach of a sample, where each reaches to its
third neighbour in its own set (Kynkäänniemi et al. 2019, arXiv 1904.06991).
"""

from __future__ import annotations

import torch
from torch import Tensor

from anytime_ar.evaluation.moments import GROUPS

NEIGHBOUR = 3
_ROWS = 512
"""Of a matrix of all pairs at a time."""


class RealPairs:
    """The real set, by itself.

    Args:
        features: float64 [m, F].
    """

    def __init__(self, features: Tensor) -> None:
        self.features, self.squares = features, features.square().sum(1)
        total, reach = 0.0, []
        for rows, squares in zip(features.split(_ROWS), self.squares.split(_ROWS), strict=True):
            products = rows @ features.T
            total += float(_kernel(products, features).sum())
            reach.append(_reach(_distances(products, squares, self.squares)))
        self.reach = torch.cat(reach)
        """Squared distance of each to its third neighbour: [m]."""
        own = float(_kernel(self.squares, features).sum())
        self.kernel_mean = (total - own) / (len(features) * (len(features) - 1))
        """Over pairs of different ones."""


class Pairs:
    """Samples with one another and with the real set.

    Args:
        samples: float64 [n, F].
        real: what they are compared with.
    """

    def __init__(self, samples: Tensor, real: RealPairs) -> None:
        self._real_mean = real.kernel_mean
        groups = torch.arange(len(samples)) % GROUPS
        self._members = torch.nn.functional.one_hot(groups, GROUPS).double()  # [n, G]
        self._within = torch.zeros(GROUPS, GROUPS, dtype=torch.float64)
        self._across = torch.zeros(GROUPS, dtype=torch.float64)
        all_squares, near = samples.square().sum(1), []
        reached = torch.zeros(len(real.features), dtype=torch.bool)
        for rows, squares, members in zip(
            samples.split(_ROWS), all_squares.split(_ROWS), self._members.split(_ROWS), strict=True
        ):
            products = rows @ samples.T
            reach = _reach(_distances(products, squares, all_squares))
            self._within += members.T @ _kernel(products, samples) @ self._members
            products = rows @ real.features.T
            distances = _distances(products, squares, real.squares)  # [rows, m]
            near.append((distances <= real.reach).any(1))
            reached |= (distances <= reach[:, None]).any(0)
            self._across += members.T @ _kernel(products, samples).mean(1)
        own = self._members.T @ _kernel(all_squares, samples)
        self._within -= torch.diag(own)  # nobody is compared with itself
        self.near = torch.cat(near)
        """Which samples are within reach of a real one: bool [n]."""
        self.reached = reached
        """Which real ones are within reach of a sample: bool [m]."""

    def kernel_distance(self, weights: Tensor) -> float:
        """Where groups of samples count as often as float64 weights [G] say."""
        counts = self._members.sum(0)
        pairs = torch.outer(counts, counts) - torch.diag(counts)
        within = weights @ self._within @ weights / (weights @ pairs @ weights)
        across = weights @ self._across / (weights @ counts)
        return float(within + self._real_mean - 2 * across)


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
