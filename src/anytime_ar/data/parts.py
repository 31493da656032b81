"""Parts of a batch, one for each process, or for each pass of a step that is too large for one.

What is random is drawn for the whole batch, of which each part takes its own: so that a run does
not depend on how many parts its batches are in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


class Part:
    """One of `count` equal parts, consecutive samples of a batch."""

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count

    def whole(self, size: int) -> int:
        """Samples of the batch, of which this part has `size`."""
        return size * self.count

    def of(self, drawn: Tensor, dim: int = 0) -> Tensor:
        """This part of what was drawn for the whole batch."""
        return drawn.chunk(self.count, dim)[self.index]

    def rows(self, size: int) -> range:
        """Of a batch with `size` samples."""
        share = size // self.count
        return range(self.index * share, (self.index + 1) * share)


WHOLE = Part()


def cut(batch: tuple[Any, ...], count: int) -> Iterator[tuple[Any, ...]]:
    """A batch in equal parts: its tensors are cut, all else is the same in each."""
    pieces = [one.chunk(count) if isinstance(one, Tensor) else (one,) * count for one in batch]
    yield from zip(*pieces, strict=True)
