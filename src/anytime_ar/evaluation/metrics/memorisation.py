"""Whether samples are copies: how near the nearest training sample is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

NUM_QUERIES = 256
"""Samples that are looked for among all training samples, of each kind."""


def nearest_neighbour_distances(
    queries: Tensor, training: Iterable[Tensor], to_distance_space: Callable[[Tensor], Tensor]
) -> Tensor:
    """Distance of each query to its nearest training sample.

    Args:
        queries: float32 [n, *sample_shape].
        training: all training samples, float32 [B, *sample_shape] at a time.
        to_distance_space: what distances are measured in: the values themselves of images, spectra of sounds;
            [B, *sample_shape] to [B, ...].

    Returns:
        float32 [n], Euclidean.
    """
    looked_for = to_distance_space(queries).flatten(1)
    nearest = torch.full((len(queries),), torch.inf)
    for batch in training:
        distances = torch.cdist(looked_for, to_distance_space(batch).flatten(1))
        nearest = torch.minimum(nearest, distances.amin(1))
    return nearest
