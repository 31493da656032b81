"""The memorisation check: distances of samples to their nearest training samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

NUM_QUERIES = 256
"""Maximum number of samples of each kind that are searched for in the training split."""


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
