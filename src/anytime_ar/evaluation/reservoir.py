"""A sample of bounded size of a stream, in which every element is as likely as any other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Reservoir:
    """Keeps up to `capacity` rows of what is added (Vitter 1985, algorithm R).

    Which ones depends on their number in the stream alone: of two streams of one length, rows of
    the same numbers are kept, in the same places, however they came in batches.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity, self._seen = capacity, 0
        self._rows: list[Tensor] = []
        self._random = np.random.Generator(np.random.Philox(key=0))

    def add(self, rows: Tensor) -> None:
        """The next rows [B, ...]."""
        free = max(0, self._capacity - self._seen)
        self._rows += rows[:free].unbind()
        late = range(self._seen + min(free, len(rows)), self._seen + len(rows))
        chances = self._random.random(len(late))
        for number, chance in zip(late, chances, strict=True):
            place = int(chance * (number + 1))
            if place < self._capacity:
                self._rows[place] = rows[number - self._seen]
        self._seen += len(rows)

    @property
    def rows(self) -> Tensor:
        """What is kept: [up to capacity, ...]."""
        return torch.stack(self._rows)
