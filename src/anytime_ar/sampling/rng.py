"""One random stream per sample, so that samples do not depend on batch size or budget.

Sample i of seed s takes its numbers from a counter-based generator (Philox, Salmon et al. 2011)
with key (s, i). The numbers are the same alone, in every batch, and for every number of codes.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from anytime_ar.errors import InputError


class _PhiloxGenerator(threading.local):
    """One generator per thread, since creating one takes longer than filling a row."""

    def __init__(self) -> None:
        """Create the generator and remember its initial state."""
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._start = self._bits.state
        self._key = self._start["state"]["key"]

    def fill_uniform(self, out: np.ndarray, seed: int, sample_index: int) -> None:
        """Fill `out` with the first numbers of a generator with key [seed, sample_index]."""
        self._key[0], self._key[1] = seed, sample_index
        self._bits.state = self._start
        self._generator.random(out=out)


_philox = _PhiloxGenerator()


def uniform_noise(seed: int, sample_indices: range, count: int) -> Tensor:
    """Return uniform numbers in [0, 1), one row per sample: float64 [n, count].

    Args:
        seed: random seed, 0..2**64-1.
        sample_indices: indices of the n samples within the seed.
        count: numbers per sample; a larger count does not change the first ones.

    Raises:
        InputError: the seed is out of range.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed {seed} is outside 0..2**64-1; pass a non-negative integer")
    noise = np.empty((len(sample_indices), count))
    for line, row in zip(noise, sample_indices, strict=True):
        _philox.fill_uniform(line, seed, row)
    return torch.from_numpy(noise)
