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


class _Philox(threading.local):
    """One generator for each thread; making one takes longer than the numbers of a row."""

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._start = self._bits.state
        self._key = self._start["state"]["key"]

    def write(self, line: np.ndarray, seed: int, row: int) -> None:
        """What a generator of its own with key [seed, row] would begin with."""
        self._key[0], self._key[1] = seed, row
        self._bits.state = self._start
        self._generator.random(out=line)


_philox = _Philox()


def row_noise(seed: int, rows: range, columns: int) -> Tensor:
    """Uniform numbers in [0, 1), one row per sample: float64 [len(rows), columns].

    Args:
        seed: 0..2**64-1.
        rows: indices of the samples within the seed.
        columns: numbers per sample; asking for more leaves the first ones as they are.

    Raises:
        InputError: the seed is out of range.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed {seed} is outside 0..2**64-1; pass a non-negative integer")
    noise = np.empty((len(rows), columns))
    for line, row in zip(noise, rows, strict=True):
        _philox.write(line, seed, row)
    return torch.from_numpy(noise)
