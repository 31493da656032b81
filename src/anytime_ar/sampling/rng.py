"""One random stream per sample, so that results ignore batch size and budget.

Sample i of seed s takes its numbers from a counter-based generator (Philox, Salmon et al. 2011)
with key (s, i): the same alone, in any batch, and for any number of codes.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from anytime_ar.errors import InputError


class _PhiloxGenerator(threading.local):
    """One generator for each thread; making one takes longer than the numbers of a row."""

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._start = self._bits.state
        self._key = self._start["state"]["key"]

    def fill_uniform(self, out: np.ndarray, seed: int, sample_index: int) -> None:
        """What a generator of its own with key [seed, row] would begin with."""
        self._key[0], self._key[1] = seed, sample_index
        self._bits.state = self._start
        self._generator.random(out=out)


_philox = _PhiloxGenerator()


def uniform_noise(seed: int, sample_indices: range, count: int) -> Tensor:
    """Uniform numbers in [0, 1), one row per sample: float64 [len(rows), columns].

    Args:
        seed: 0..2**64-1.
        sample_indices: indices of the samples within the seed.
        count: numbers per sample; asking for more leaves the first ones as they are.

    Raises:
        InputError: the seed is out of range.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed {seed} is outside 0..2**64-1; pass a non-negative integer")
    noise = np.empty((len(sample_indices), count))
    for line, row in zip(noise, sample_indices, strict=True):
        _philox.fill_uniform(line, seed, row)
    return torch.from_numpy(noise)
