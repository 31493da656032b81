"""A split of a data set: ordered passes over it and endless shuffled batches from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from anytime_ar.data.augmentation import NO_AUGMENTATION, AugmentationConfig
from anytime_ar.data.batch import Batch, ShuffleBlock, StoredChunk
from anytime_ar.data.decoding import BrokenSampleCollector, RowDecoder, combine_errors
from anytime_ar.data.rows import Row, SplitRows, StoredArray
from anytime_ar.data.shuffling import ShuffledBatches
from anytime_ar.errors import BrokenSampleError, DataError, InputError
from anytime_ar.media.image import to_float
from anytime_ar.runtime.distributed import FULL_BATCH, BatchShard
from anytime_ar.runtime.threads import available_cpus

_MAX_DECODE_THREADS = 8


class Split(ABC):
    """Samples in a fixed order, all of one shape.

    Args:
        origin: what messages call it.
        crop: T of sounds that may be stored longer; ordered passes give their beginning, shuffled
            batches any part. None: samples are given as stored.
    """

    def __init__(self, origin: str, crop: int | None = None) -> None:
        self.origin, self.crop = origin, crop

    @property
    @abstractmethod
    def size(self) -> int | None:
        """How many samples there are; None where a stream does not say."""

    @abstractmethod
    def chunks(self, count: int, start: int = 0) -> Iterator[StoredChunk]:
        """The samples in order, `count` at a time, from the chunk that began at `start` on."""

    @abstractmethod
    def blocks(self, start: int = 0) -> Iterator[ShuffleBlock]:
        """The same, as many at a time as are shuffled together."""

    @abstractmethod
    def read_range(self, start: int, stop: int) -> Batch:
        """Samples start..stop - 1 of an ordered pass, at least one of which is there.

        Raises:
            DataError: one of them cannot be used.
        """

    def _batch(self, chunk: StoredChunk) -> Batch:
        return Batch(to_float(chunk.samples[..., : self.crop]), chunk.labels)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """One ordered pass; the last batch may be short.

        Raises:
            InputError: `batch_size` is below 1.
            DataError: a sample that is read on the way cannot be used.
        """
        _require_positive(batch_size)
        return map(self._batch, self.chunks(batch_size))

    def shuffled(
        self,
        batch_size: int,
        seed: int,
        augmentation: AugmentationConfig = NO_AUGMENTATION,
        shard: BatchShard = FULL_BATCH,
    ) -> ShuffledBatches:
        """Endless full batches, or a part of each, new order every epoch, augmented; the same for
        the same seed.

        Raises:
            InputError: `batch_size` is below 1, or cannot be cut into so many parts.
        """
        _require_positive(batch_size)
        if batch_size % shard.num_shards:
            raise InputError(
                f"batch_size is {batch_size}, which cannot be cut into {shard.num_shards} equal parts; "
                "choose a multiple"
            )
        return ShuffledBatches(
            self.blocks,
            origin=self.origin,
            batch_size=batch_size,
            seed=seed,
            augmentation=augmentation,
            crop=self.crop,
            shard=shard,
        )


def _require_positive(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; pass at least 1")


class MemorySplit(Split):
    """A split decoded once into one tensor."""

    def __init__(
        self, samples: Tensor, labels: Tensor | None, origin: str, crop: int | None = None
    ) -> None:
        """`samples` uint8 [N, C, H, W] or int16 [N, 1, S], `labels` int64 [N]."""
        super().__init__(origin, crop)
        self.samples = samples
        self.labels = labels

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def size(self) -> int:
        return len(self.samples)

    def chunks(self, count: int, start: int = 0) -> Iterator[StoredChunk]:
        for at in range(start, len(self.samples), count):
            yield self._chunk(at, at + count)

    def read_range(self, start: int, stop: int) -> Batch:
        return self._batch(self._chunk(start, stop))

    def _chunk(self, start: int, stop: int) -> StoredChunk:
        labels = None if self.labels is None else self.labels[start:stop]
        return StoredChunk(self.samples[start:stop], labels, start)

    def blocks(self, start: int = 0) -> Iterator[ShuffleBlock]:
        if start < len(self.samples):
            rest = self._chunk(start, len(self.samples))
            yield _MemoryBlock(rest.samples, rest.labels, start)


class _MemoryBlock:
    """Of samples in memory."""

    def __init__(self, samples: Tensor, labels: Tensor | None, start: int) -> None:
        self.samples, self.labels, self.start = samples, labels, start

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, indices: Tensor) -> Tensor:
        return self.samples[indices]


class StreamingSplit(Split):
    """A split read again in every pass; only the current chunk is in memory."""

    def __init__(
        self,
        rows: SplitRows,
        decoder: RowDecoder,
        block_size: int,
        origin: str,
        crop: int | None = None,
    ) -> None:
        super().__init__(origin, crop)
        self._rows = rows
        self._decoder = decoder
        self._block_size = block_size

    @property
    def size(self) -> int | None:
        return self._rows.size

    def chunks(self, count: int, start: int = 0) -> Iterator[StoredChunk]:
        for block in self._blocks(count, start):
            yield StoredChunk(block.take(torch.arange(len(block))), block.labels, block.start)

    def blocks(self, start: int = 0) -> Iterator[ShuffleBlock]:
        return self._blocks(self._block_size, start)

    def _blocks(self, count: int, start: int) -> Iterator[_LazyBlock]:
        rows = self._rows.read(start)
        while taken := list(islice(rows, count)):
            yield _LazyBlock(taken, self._decoder, start)
            start = taken[-1].index + 1

    def read_range(self, start: int, stop: int) -> Batch:
        return self._batch(next(self.chunks(stop - start, self._rows.index_of(start))))


class _LazyBlock:
    """Of rows that are decoded when they are taken."""

    def __init__(self, rows: list[Row], decoder: RowDecoder, start: int) -> None:
        self._rows, self._decoder, self.start = rows, decoder, start
        self.labels = _label_tensor(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, indices: Tensor) -> Tensor:
        """See `ShuffleBlock`; all that is broken among them is told at once."""
        rows = [self._rows[place] for place in indices.tolist()]
        read = [*_decode_pool().map(self._decode, rows)]
        if broken := [each for each in read if isinstance(each, BrokenSampleError)]:
            raise combine_errors(broken)
        return torch.from_numpy(np.stack(read))  # type: ignore[arg-type]

    def _decode(self, row: Row) -> StoredArray | BrokenSampleError:
        try:
            return self._decoder(row)
        except BrokenSampleError as error:
            return error


@cache
def _decode_pool() -> ThreadPoolExecutor:
    """Threads for what decodes files: it lets others compute meanwhile."""
    return ThreadPoolExecutor(min(_MAX_DECODE_THREADS, available_cpus()), "anytime-decode")


def _label_tensor(rows: list[Row]) -> Tensor | None:
    """int64 [n], or None where rows carry no label."""
    labels = [row.label for row in rows if row.label is not None]
    return torch.tensor(labels, dtype=torch.int64) if labels else None


def read_into_memory(
    rows: SplitRows,
    decoder: RowDecoder,
    origin: str,
    broken: BrokenSampleCollector,
    crop: int | None = None,
) -> MemorySplit:
    """Decode every row of a split; `crop` as for `EvaluationSplit`.

    Args:
        broken: takes note of what does not decode; the split is without it.

    Raises:
        DataError: a sample cannot be used, or the split ends early.
    """
    size = rows.size
    assert size is not None, "only streams have unknown size"
    samples: StoredArray | None = None  # [N, ...]
    labels: list[int] = []
    count = kept = 0
    for row in rows.read():
        count += 1
        sample = broken.decode(decoder, row)
        if sample is None:
            continue
        if samples is None:
            # Allocated once at full size: stacking a list would need the memory twice.
            samples = np.empty((size, *sample.shape), dtype=sample.dtype)
        samples[kept] = sample
        kept += 1
        if row.label is not None:
            labels.append(row.label)
    if samples is None or count != size:
        raise DataError(f"{origin}: holds {count} samples, expected {max(size, 1)}")
    return MemorySplit(
        torch.from_numpy(samples[:kept]),
        torch.tensor(labels, dtype=torch.int64) if labels else None,
        origin,
        crop,
    )
