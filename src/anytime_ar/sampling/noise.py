"""One random stream per sample, so that results ignore batch size and budget.

Sample i of seed s takes its numbers from a counter-based generator (Philox, Salmon et al. 2011)
with key (s, i): the same alone, in any batch, and for any number of codes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anytime_ar.errors import InputError


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
    philox = np.random.Philox(key=np.array([seed, rows.start], dtype=np.uint64))
    generator, state = np.random.Generator(philox), philox.state
    for line, row in zip(noise, rows, strict=True):
        # The state that Philox(key=[seed, row]) begins with; making a new one takes five times as
        # long as the numbers of a row do.
        state["state"]["key"][1] = row
        philox.state = state
        generator.random(out=line)
    return torch.from_numpy(noise)
