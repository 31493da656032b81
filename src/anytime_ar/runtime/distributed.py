"""Coordinate the processes that train or evaluate one model together.

All processes run the same program, synchronized by collective operations. Rank 0 writes files and
shows progress.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

from anytime_ar.errors import AnytimeError, PeerExitedError, ReportedByRankZeroError

ItemT = TypeVar("ItemT")
"""Type of an item to work on."""
ResultT = TypeVar("ResultT")
"""Type of the result of a function."""

_ITEMS_PER_EXCHANGE = 8
"""Items that each process works on between two exchanges of results."""


class DistributedContext:
    """The processes of `torch.distributed` if it is initialized, or this process alone."""

    def __init__(self) -> None:
        """Read rank and world size, and make a group for tensors on the CPU."""
        shared = distributed.is_available() and distributed.is_initialized()
        self.world_size: int = distributed.get_world_size() if shared else 1
        """Number of processes; 1 without `torch.distributed`."""
        self.rank: int = distributed.get_rank() if shared else 0
        """Index of this process, 0..world_size-1."""
        self._cpu_group = None  # for tensors on the CPU, which need not wait for a GPU
        if self.world_size > 1 and distributed.get_backend() != "gloo":
            self._cpu_group = distributed.new_group(backend="gloo")

    @property
    def is_rank_zero(self) -> bool:
        """Return whether this process writes files and shows progress."""
        return self.rank == 0

    def batch_shard(self, micro_step: int = 0, num_micro_steps: int = 1) -> BatchShard:
        """Return this process's shard of a global batch for one step of gradient accumulation.

        Args:
            micro_step: index of the step, 0..num_micro_steps-1.
            num_micro_steps: number of steps per batch.
        """
        return BatchShard(
            self.rank * num_micro_steps + micro_step, self.world_size * num_micro_steps
        )

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.world_size == 1:
            return tensor
        # Gloo does not support int16.
        total = tensor.int() if tensor.dtype == torch.int16 else tensor.clone()
        distributed.all_reduce(
            total, group=self._cpu_group if tensor.device.type == "cpu" else None
        )
        return total.to(tensor.dtype)

    def all_reduce_mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        return self.all_reduce_sum(tensor) / self.world_size

    def all_gather(self, tensor: Tensor, dim: int) -> Tensor:
        """Concatenate the tensors of all processes, of the same shape, in the order of ranks.

        Args:
            tensor: this process's tensor.
            dim: dimension to concatenate along.
        """
        if self.world_size == 1:
            return tensor
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        distributed.all_gather(gathered, tensor.contiguous())
        return torch.cat(gathered, dim)

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """Return, for each flag, whether it is set on any process."""
        if self.world_size == 1:
            return flags
        answers = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(answers, distributed.ReduceOp.MAX, group=self._cpu_group)
        return tuple(map(bool, answers.tolist()))

    def map_in_order(
        self, items: Iterable[ItemT], work: Callable[[ItemT], ResultT]
    ) -> Iterator[ResultT]:
        """Yield the result of every item in order; each item is worked on by one process.

        All processes must pass the same items and consume all results.

        Args:
            items: the items.
            work: computes the result of an item.
        """
        if self.world_size == 1:
            yield from map(work, items)
            return
        queue = iter(items)
        while some := list(islice(queue, _ITEMS_PER_EXCHANGE * self.world_size)):
            results = [work(item) for item in some[self.rank :: self.world_size]]
            gathered: list[list[ResultT]] = [[] for _ in range(self.world_size)]
            distributed.all_gather_object(gathered, results, group=self._cpu_group)
            for i in range(len(some)):
                yield gathered[i % self.world_size][i // self.world_size]

    def run_on_rank_zero(self, work: Callable[[], ResultT]) -> ResultT:
        """Run a function on rank 0 while the others wait, and return its result on all of them.

        Args:
            work: the function; its result must be picklable.

        Raises:
            AnytimeError: the function failed; rank 0 raises its error.
            ReportedByRankZeroError: the same, on the other processes.
        """
        result: list[ResultT] = []
        try:
            if self.is_rank_zero:
                result.append(work())
        finally:
            (failed,) = self.any_rank(self.is_rank_zero and not result)
        if failed:
            raise ReportedByRankZeroError("rank 0 reports what is wrong")
        if self.world_size > 1:
            shared = [result]
            distributed.broadcast_object_list(shared, group=self._cpu_group)
            (result,) = shared
        return result[0]

    def same_error_on_all_ranks(self, error: AnytimeError) -> AnytimeError:
        """Return the error to raise if all processes find the same one; rank 0 alone reports it."""
        return (
            error if self.is_rank_zero else ReportedByRankZeroError("rank 0 reports what is wrong")
        )

    @contextmanager
    def report_peer_exit(self) -> Iterator[None]:
        """Replace connection errors in the block by one that says that another process has exited.

        Raises:
            PeerExitedError: the connection to another process was lost.
        """
        try:
            yield
        except RuntimeError as error:
            of_connection = "gloo" in str(error) or isinstance(error, distributed.DistError)
            if self.world_size > 1 and of_connection:
                raise PeerExitedError(
                    "another process of this run has ended; see what it says, and resume"
                ) from error
            raise

    def shut_down(self) -> None:
        """Wait for all processes, then destroy the process group.

        Without this, a process that ends early breaks the last collective operation of the others.
        """
        if self.world_size > 1:
            distributed.barrier()
            distributed.destroy_process_group()


@contextmanager
def torchrun_context() -> Iterator[DistributedContext]:
    """Initialize the processes that `torchrun` started, or use this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield DistributedContext()
        return
    distributed.init_process_group("gloo")  # exchanges little, from the CPU
    try:
        yield DistributedContext()
    finally:
        distributed.destroy_process_group()


class BatchShard:
    """One of `num_shards` equal shards of a batch, each of consecutive samples.

    Args:
        index: index of the shard, 0..num_shards-1.
        num_shards: number of shards in the batch.
    """

    def __init__(self, index: int = 0, num_shards: int = 1) -> None:
        """Store the shard's index and the number of shards; the default is the full batch."""
        self.index, self.num_shards = index, num_shards

    def global_batch_size(self, shard_size: int) -> int:
        """Return the number of samples in the batch, if this shard has `shard_size`."""
        return shard_size * self.num_shards

    def local_slice(self, values: Tensor, dim: int = 0) -> Tensor:
        """Return this shard's part of a tensor for the global batch.

        Args:
            values: a tensor, with one value for each sample of the batch along `dim`.
            dim: dimension of the samples.
        """
        return values.chunk(self.num_shards, dim)[self.index]

    def local_indices(self, batch_size: int) -> range:
        """Return the indices of this shard's samples in a batch of `batch_size`."""
        share = batch_size // self.num_shards
        return range(self.index * share, (self.index + 1) * share)


FULL_BATCH = BatchShard()
"""The shard that is the full batch."""


def split_microbatches(batch: tuple[Any, ...], num_microbatches: int) -> Iterator[tuple[Any, ...]]:
    """Split a batch into equal microbatches; values that are not tensors are the same in each.

    Args:
        batch: tensors [B, ...], dictionaries of such tensors, and other values.
        num_microbatches: number of microbatches; B is a multiple of it.

    Yields:
        A microbatch, with the same fields as the batch.
    """

    def split(one: Any) -> Sequence[Any]:
        if isinstance(one, Tensor):
            return one.chunk(num_microbatches)
        if isinstance(one, dict):
            pieces = {name: split(value) for name, value in one.items()}
            return [{name: pieces[name][i] for name in one} for i in range(num_microbatches)]
        return (one,) * num_microbatches

    yield from zip(*map(split, batch), strict=True)
