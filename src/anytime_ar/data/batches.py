"""Iterate over endless shuffled batches, resumable after any batch, and prefetch the next one.

A split is shuffled within blocks. In memory, the whole split is one block; a stream has blocks of
`shuffle_buffer` consecutive samples. The order within a block depends on seed, epoch and block, and
augmentation depends on seed and step. So the state is a few integers, and resuming only reads one
block again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from anytime_ar.conditions import Conditions, concatenate_conditions
from anytime_ar.data.augmentation import AugmentationConfig, augment, random_crops
from anytime_ar.errors import DataError, InputError
from anytime_ar.media.image import to_float
from anytime_ar.runtime.distributed import FULL_BATCH, BatchShard
from anytime_ar.runtime.seeding import generator_for
from anytime_ar.runtime.threads import single_thread_executor
from anytime_ar.runtime.torch_modes import default_torch_modes

_POSITION_KEYS = ("step", "epoch", "block_start", "taken")


class Batch(NamedTuple):
    """A batch of samples, ready for a network."""

    data: Tensor
    """Samples, float32 in [-1, 1]: images [B, C, H, W] or clips [B, C, T]."""
    labels: Tensor | None
    """Class of each sample, int64 [B]; None if the set has no labels."""
    conditions: Conditions | None = None
    """B rows for each condition; None if the set has no conditions."""


class StoredChunk(NamedTuple):
    """Consecutive samples of a split, as stored."""

    samples: Tensor
    """Samples as stored: images uint8 [n, C, H, W], sounds int16 [n, C, T],
    series float32 [n, C, T]."""
    labels: Tensor | None
    """Class of each sample, int64 [n]; None if the set has no labels."""
    conditions: Conditions | None
    """n rows for each condition; None if the set has no conditions."""
    start: int
    """Position where reading began: `chunks(start=start)` returns this chunk again."""


class ShuffleBlock(Protocol):
    """A block of samples that are shuffled together; each sample is decoded when it is taken."""

    start: int
    """Position where reading began: `blocks(start=start)` returns this block again."""
    labels: Tensor | None
    """Class of each sample, int64 [n]; None if the set has no labels."""
    conditions: Conditions | None
    """n rows for each condition; None if the set has no conditions."""

    def __len__(self) -> int:
        """Return the number n of samples in the block."""

    def take(self, indices: Tensor) -> Tensor:
        """Return samples of the block as stored.

        Args:
            indices: int64 [m], each in 0..n-1.

        Returns:
            Images uint8 [m, C, H, W], sounds int16 [m, C, S], or series float32 [m, C, T].

        Raises:
            DataError: a sample cannot be used.
        """
        ...


class ShuffledBatches(Iterator[Batch]):
    """An endless iterator of full batches, made by `Split.shuffled`.

    Every sample occurs once per epoch. The next epoch fills the rest of an epoch's last batch, so
    sets smaller than a batch work too. With several processes, each reads its shard of every batch,
    and no samples of the others.

    Args:
        blocks: `blocks(start)` yields the split's blocks in stored order, from a block's `start`
            on.
        origin: name of the split, for messages.
        batch_size: number of samples in the global batch.
        seed: seed of order, crops and augmentation.
        augmentation: the ranges of random augmentation.
        crop: length T that clips are cropped to at random; None to use clips as stored.
        shard: the shard of each batch to read.
    """

    def __init__(
        self,
        blocks: Callable[[int], Iterator[ShuffleBlock]],
        *,
        origin: str,
        batch_size: int,
        seed: int,
        augmentation: AugmentationConfig,
        crop: int | None = None,
        shard: BatchShard = FULL_BATCH,
    ) -> None:
        """Start at the first batch of the first epoch."""
        self._read_blocks = blocks
        self._origin = origin
        self._batch_size = batch_size
        self._seed = seed
        self._augmentation = augmentation
        self._crop = crop
        self._shard = shard
        self._step = 0  # batches returned so far
        self._epoch = 0
        self._block_start = 0
        self._taken = 0  # samples of the current block already used
        self._blocks: Iterator[ShuffleBlock] = iter(())
        self._block: ShuffleBlock | None = None  # None: not read yet, begins at _block_start
        self._order = torch.empty(0, dtype=torch.int64)  # [n] of the current block

    def __iter__(self) -> Self:
        """Return the iterator itself."""
        return self

    def __next__(self) -> Batch:
        """Return this shard of the next batch, cropped and augmented.

        Raises:
            DataError: a sample cannot be used, or the data set has changed.
        """
        samples: list[Tensor] = []
        labels: list[Tensor] = []
        conditions: list[Conditions] = []
        ours = self._shard.local_indices(self._batch_size)
        filled = 0
        while filled < self._batch_size:
            block = self._current_block()
            chosen = self._order[self._taken : self._taken + self._batch_size - filled]
            own = chosen[max(0, ours.start - filled) : max(0, ours.stop - filled)]
            if len(own):
                samples.append(block.take(own))
                if block.labels is not None:
                    labels.append(block.labels[own])
                if block.conditions is not None:
                    conditions.append({name: x[own] for name, x in block.conditions.items()})
            self._taken += len(chosen)
            filled += len(chosen)
        stored = torch.cat(samples)
        if self._crop is not None:
            generator = generator_for("crop", self._seed, self._step)
            stored = random_crops(stored, self._crop, generator, self._shard)
        data = augment(
            to_float(stored),
            self._augmentation,
            generator_for("augmentation", self._seed, self._step),
            self._shard,
        )
        self._step += 1
        return Batch(
            data, torch.cat(labels) if labels else None, concatenate_conditions(conditions)
        )

    def _current_block(self) -> ShuffleBlock:
        """Return the block that has samples left, and read the next one if there is none."""
        if self._block is None:
            self._start_block(self._first_block(self._block_start))
        while self._block is None or self._taken >= len(self._order):
            self._taken = 0
            following = next(self._blocks, None)
            if following is None:
                self._epoch += 1
                following = self._first_block(0)
            self._start_block(following)
        return self._block

    def _first_block(self, start: int) -> ShuffleBlock:
        """Start reading blocks at a position, and return the first one."""
        self._blocks = self._read_blocks(start)
        block = next(self._blocks, None)
        if block is None:
            raise DataError(
                f"{self._origin}: no samples from position {start} on; the data changed since this "
                "run began, start a new one"
            )
        return block

    def _start_block(self, block: ShuffleBlock) -> None:
        """Make a block the current one, in its shuffled order."""
        self._block = block
        self._block_start = block.start
        generator = generator_for("order", self._seed, self._epoch, block.start)
        self._order = torch.randperm(len(block), generator=generator)

    def state_dict(self) -> dict[str, int]:
        """Return the state at which the next batch begins, as integers that JSON can hold."""
        return {
            "seed": self._seed,
            "batch_size": self._batch_size,
            "step": self._step,
            "epoch": self._epoch,
            "block_start": self._block_start,
            "taken": self._taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the batch at which `state` was taken.

        Args:
            state: what `state_dict` returned.

        Raises:
            InputError: the state has another seed or batch size, or is not such a state.
        """
        expected = {"seed": self._seed, "batch_size": self._batch_size}
        for key, value in expected.items():
            if state.get(key) != value:
                raise InputError(
                    f"data state has {key}={state.get(key)!r}, but these batches have "
                    f"{key}={value}; resume with the settings of the interrupted run"
                )
        for key in _POSITION_KEYS:
            position = state.get(key)
            if not isinstance(position, int) or position < 0:
                raise InputError(
                    f"data state has {key}={position!r}, expected an integer >= 0; "
                    "pass what state_dict() returned"
                )
        self._step, self._epoch, self._block_start, self._taken = (
            state[key] for key in _POSITION_KEYS
        )
        self._block = None


_BatchAndState = tuple[Batch, dict[str, int]]
"""A batch, and the state at which the next one begins."""


class Prefetcher(Iterator[Batch]):
    """An iterator over the same batches, each read ahead by one thread.

    An error in the thread is raised with the batch that it belongs to.

    Args:
        batches: the batches to prefetch; nothing else may use them.
    """

    def __init__(self, batches: ShuffledBatches) -> None:
        """Start the reading thread; it reads nothing before the first call of `next`."""
        self._batches = batches
        self._state = batches.state_dict()
        self._thread = single_thread_executor("anytime-read")
        self._next: Future[_BatchAndState] | None = None

    def __iter__(self) -> Self:
        """Return the iterator itself."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch, and start reading the one after it."""
        current = self._next or self._thread.submit(self._read)
        self._next = None
        batch, self._state = current.result()
        self._next = self._thread.submit(self._read)
        return batch

    @default_torch_modes()
    def _read(self) -> _BatchAndState:
        """Return the next batch, and the state after it."""
        return next(self._batches), self._batches.state_dict()

    def state_dict(self) -> dict[str, int]:
        """Return the state after the last batch returned; see `ShuffledBatches.state_dict`."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Discard the prefetched batch, and resume from a state of `ShuffledBatches`."""
        if self._next is not None:
            wait([self._next])
            self._next = None
        self._batches.load_state_dict(state)
        self._state = self._batches.state_dict()
