"""Read a split of a data set: ordered passes over it, and endless shuffled batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from anytime_ar.conditions import Conditions
from anytime_ar.data.augmentation import NO_AUGMENTATION, AugmentationConfig
from anytime_ar.data.batches import Batch, ShuffleBlock, ShuffledBatches, StoredChunk
from anytime_ar.data.decoding import BrokenSampleCollector, RowDecoder, combine_errors
from anytime_ar.data.rows import Row, SplitRows, StoredArray
from anytime_ar.errors import BrokenSampleError, DataError, InputError
from anytime_ar.media.image import to_float
from anytime_ar.runtime.distributed import FULL_BATCH, BatchShard
from anytime_ar.runtime.threads import available_cpus

_MAX_DECODE_THREADS = 8
"""Most threads that decode files."""


class Split(ABC):
    """Samples in a fixed order, all of one shape.

    Args:
        origin: name of the split, for messages.
        crop: length T of clips that may be stored longer. Ordered passes return their beginning,
            shuffled batches any part. None: samples are returned as stored.
    """

    def __init__(self, origin: str, crop: int | None = None) -> None:
        """Store the split's name and the crop length."""
        self.origin, self.crop = origin, crop

    @property
    @abstractmethod
    def size(self) -> int | None:
        """Return the number of samples; None for a stream of unknown size."""

    @abstractmethod
    def chunks(self, count: int, start: int = 0) -> Iterator[StoredChunk]:
        """Yield the samples in order, `count` at a time.

        Args:
            count: most samples in a chunk.
            start: `start` of the chunk to begin with.
        """

    @abstractmethod
    def blocks(self, start: int = 0) -> Iterator[ShuffleBlock]:
        """Yield the samples in order, in blocks that are shuffled together.

        Args:
            start: `start` of the block to begin with.
        """

    @abstractmethod
    def read_range(self, start: int, stop: int) -> Batch:
        """Return samples start..stop - 1 of an ordered pass; at least one of them must exist.

        Args:
            start: position of the first sample.
            stop: position after the last sample.

        Raises:
            DataError: a sample cannot be used.
        """

    def _batch(self, chunk: StoredChunk) -> Batch:
        """Return a stored chunk as a float batch, cropped to the beginning of its clips."""
        return Batch(to_float(chunk.samples[..., : self.crop]), chunk.labels, chunk.conditions)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the batches of one ordered pass; the last one may be short.

        Args:
            batch_size: number of samples in a batch.

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
        """Return endless full batches, augmented, in a new order every epoch.

        The same seed gives the same batches.

        Args:
            batch_size: number of samples in the global batch.
            seed: seed of order, crops and augmentation.
            augmentation: the ranges of random augmentation.
            shard: the shard of each batch to return.

        Raises:
            InputError: `batch_size` is below 1, or not a multiple of the number of shards.
        """
        _require_positive(batch_size)
        if batch_size % shard.num_shards:
            raise InputError(
                f"batch_size is {batch_size}, which cannot be cut into {shard.num_shards} equal "
                "parts; choose a multiple"
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
    """Check that a batch size is at least 1."""
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; pass at least 1")


class MemorySplit(Split):
    """A split decoded once into one tensor.

    Args:
        samples: uint8 [N, C, H, W] or int16 [N, 1, S].
        labels: int64 [N]; None for no labels.
        origin: name of the split, for messages.
        crop: length T of clips that may be stored longer; see `Split`.
        conditions: N rows for each condition; None for no conditions.
    """

    def __init__(
        self,
        samples: Tensor,
        labels: Tensor | None,
        origin: str,
        crop: int | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        """Store the decoded samples, their labels and conditions."""
        super().__init__(origin, crop)
        self.samples, self.labels, self.conditions = samples, labels, conditions

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    @property
    def size(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def chunks(self, count: int, start: int = 0) -> Iterator[StoredChunk]:
        """Yield the samples in order; see `Split`."""
        for at in range(start, len(self.samples), count):
            yield self._chunk(at, at + count)

    def read_range(self, start: int, stop: int) -> Batch:
        """Return some consecutive samples; see `Split`."""
        return self._batch(self._chunk(start, stop))

    def _chunk(self, start: int, stop: int) -> StoredChunk:
        """Return samples start..stop - 1 as a chunk."""
        labels = None if self.labels is None else self.labels[start:stop]
        conditions = None
        if self.conditions is not None:
            conditions = {name: rows[start:stop] for name, rows in self.conditions.items()}
        return StoredChunk(self.samples[start:stop], labels, conditions, start)

    def blocks(self, start: int = 0) -> Iterator[ShuffleBlock]:
        """Yield all samples from `start` on as one block; see `Split`."""
        if start < len(self.samples):
            yield _MemoryBlock(self._chunk(start, len(self.samples)))


class _MemoryBlock:
    """A block of samples in memory; see `ShuffleBlock`."""

    def __init__(self, chunk: StoredChunk) -> None:
        """Store the samples; nothing is copied."""
        self.samples, self.labels, self.conditions, self.start = chunk

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def take(self, indices: Tensor) -> Tensor:
        """Return samples by their indices; see `ShuffleBlock`."""
        return self.samples[indices]


class StreamingSplit(Split):
    """A split read again in every pass; only the current chunk is in memory.

    Args:
        rows: the rows of the split.
        decoder: decodes a row.
        block_size: number of samples that are shuffled together.
        origin: name of the split, for messages.
        crop: length T of clips that may be stored longer; see `Split`.
        condition_names: names of the conditions of a row.
    """

    def __init__(
        self,
        rows: SplitRows,
        decoder: RowDecoder,
        block_size: int,
        origin: str,
        crop: int | None = None,
        condition_names: Sequence[str] = (),
    ) -> None:
        """Store the rows and their decoder; nothing is read yet."""
        super().__init__(origin, crop)
        self._rows = rows
        self._decoder = decoder
        self._block_size = block_size
        self._condition_names = condition_names

    @property
    def size(self) -> int | None:
        """Return the number of samples; None for a stream of unknown size."""
        return self._rows.size

    def chunks(self, count: int, start: int = 0) -> Iterator[StoredChunk]:
        """Yield the samples in order, decoded chunk by chunk; see `Split`."""
        for block in self._blocks(count, start):
            samples = block.take(torch.arange(len(block)))
            yield StoredChunk(samples, block.labels, block.conditions, block.start)

    def blocks(self, start: int = 0) -> Iterator[ShuffleBlock]:
        """Yield blocks whose samples are decoded when they are taken; see `Split`."""
        return self._blocks(self._block_size, start)

    def _blocks(self, count: int, start: int) -> Iterator[_LazyBlock]:
        """Yield blocks of `count` rows, from the row with index `start` on."""
        rows = self._rows.read(start)
        while taken := list(islice(rows, count)):
            yield _LazyBlock(taken, self._decoder, start, self._condition_names)
            start = taken[-1].index + 1

    def read_range(self, start: int, stop: int) -> Batch:
        """Return some consecutive samples; see `Split`."""
        return self._batch(next(self.chunks(stop - start, self._rows.index_of(start))))


class _LazyBlock:
    """A block of rows that are decoded when they are taken; see `ShuffleBlock`."""

    def __init__(
        self, rows: list[Row], decoder: RowDecoder, start: int, names: Sequence[str]
    ) -> None:
        """Store the rows; nothing is decoded yet."""
        self._rows, self._decoder, self.start = rows, decoder, start
        self.labels = _label_tensor(rows)
        self.conditions = _stack_conditions([row.conditions for row in rows], names)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._rows)

    def take(self, indices: Tensor) -> Tensor:
        """Decode samples in several threads; see `ShuffleBlock`.

        Raises:
            BrokenSampleError: samples do not decode; one error names all of them.
        """
        rows = [self._rows[index] for index in indices.tolist()]
        read = [*_decoders().map(self._decode, rows)]
        if broken := [each for each in read if isinstance(each, BrokenSampleError)]:
            raise combine_errors(broken)
        return torch.from_numpy(np.stack(read))  # type: ignore[arg-type]

    def _decode(self, row: Row) -> StoredArray | BrokenSampleError:
        """Decode one row, and return the error of a broken sample instead of raising it."""
        try:
            return self._decoder(row)
        except BrokenSampleError as error:
            return error


@cache
def _decoders() -> ThreadPoolExecutor:
    """Return the threads that decode files; decoding releases the interpreter lock."""
    return ThreadPoolExecutor(min(_MAX_DECODE_THREADS, available_cpus()), "anytime-decode")


def _label_tensor(rows: list[Row]) -> Tensor | None:
    """Return the labels as int64 [n]; None if the rows have no labels."""
    labels = [row.label for row in rows if row.label is not None]
    return torch.tensor(labels, dtype=torch.int64) if labels else None


def _stack_conditions(
    rows: Sequence[tuple[Tensor, ...]], names: Sequence[str]
) -> Conditions | None:
    """Return the conditions of n rows by name; None if there are no conditions."""
    if not names:
        return None
    return {name: torch.stack([row[i] for row in rows]) for i, name in enumerate(names)}


def read_into_memory(
    rows: SplitRows,
    decoder: RowDecoder,
    origin: str,
    broken: BrokenSampleCollector,
    crop: int | None = None,
    condition_names: Sequence[str] = (),
) -> MemorySplit:
    """Decode every row of a split.

    Args:
        rows: the rows of the split.
        decoder: decodes a row.
        origin: name of the split, for messages.
        broken: collects the rows that do not decode; the split is without them.
        crop: length T of clips that may be stored longer; see `Split`.
        condition_names: names of the conditions of a row.

    Raises:
        DataError: a sample cannot be used, or the split ends early.
    """
    size = rows.size
    assert size is not None, "only streams have unknown size"
    samples: StoredArray | None = None  # [N, ...]
    labels: list[int] = []
    conditions: list[tuple[Tensor, ...]] = []
    count = filled = 0
    for row in rows.read():
        count += 1
        sample = broken.decode(decoder, row)
        if sample is None:
            continue
        if samples is None:
            # Allocate once at full size: stacking a list would need the memory twice.
            samples = np.empty((size, *sample.shape), dtype=sample.dtype)
        samples[filled] = sample
        filled += 1
        if row.label is not None:
            labels.append(row.label)
        conditions.append(row.conditions)
    if samples is None or count != size:
        raise DataError(f"{origin}: holds {count} samples, expected {max(size, 1)}")
    return MemorySplit(
        torch.from_numpy(samples[:filled]),
        torch.tensor(labels, dtype=torch.int64) if labels else None,
        origin,
        crop,
        _stack_conditions(conditions, condition_names),
    )
