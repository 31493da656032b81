"""Parts of a batch, one for each process, or for each pass of a step that is too large for one.

What is random is drawn for the whole batch, of which each part takes its own: so that a run does
not depend on how many parts its batches are in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


class BatchShard:
    """One of `num_shards` equal parts, consecutive samples of a batch."""

    def __init__(self, index: int = 0, num_shards: int = 1) -> None:
        self.index, self.num_shards = index, num_shards

    def global_batch_size(self, shard_size: int) -> int:
        """Samples of the batch, of which this part has `shard_size`."""
        return shard_size * self.num_shards

    def local_slice(self, values: Tensor, dim: int = 0) -> Tensor:
        """This part of what was drawn for the whole batch."""
        return values.chunk(self.num_shards, dim)[self.index]

    def local_indices(self, batch_size: int) -> range:
        """Of a batch with `batch_size` samples."""
        share = batch_size // self.num_shards
        return range(self.index * share, (self.index + 1) * share)


FULL_BATCH = BatchShard()


def split_microbatches(batch: tuple[Any, ...], num_microbatches: int) -> Iterator[tuple[Any, ...]]:
    """A batch in equal parts: its tensors are cut, all else is the same in each."""
    pieces = [
        one.chunk(num_microbatches) if isinstance(one, Tensor) else (one,) * num_microbatches
        for one in batch
    ]
    yield from zip(*pieces, strict=True)
