"""The processes that train one model together, each with its part of every batch.

All of them run the same program; what they tell each other keeps them at the same point of it. The
first one writes files and shows progress.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

from anytime_ar.errors import AnytimeError, PeerExitedError, ReportedByRankZeroError


class DistributedContext:
    """The processes of `torch.distributed`, where it was set up, or this one alone."""

    def __init__(self) -> None:
        shared = distributed.is_available() and distributed.is_initialized()
        self.world_size: int = distributed.get_world_size() if shared else 1
        self.rank: int = distributed.get_rank() if shared else 0
        self._cpu_group = None  # the group for what lies there, and does not wait for a GPU
        if self.world_size > 1 and distributed.get_backend() != "gloo":
            self._cpu_group = distributed.new_group(backend="gloo")

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def batch_shard(self, micro_step: int = 0, num_micro_steps: int = 1) -> BatchShard:
        """The part of a batch that is this process's in one of its passes over it."""
        return BatchShard(
            self.rank * num_micro_steps + micro_step, self.world_size * num_micro_steps
        )

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Of what each process has."""
        if self.world_size == 1:
            return tensor
        # Gloo knows no int16.
        total = tensor.int() if tensor.dtype == torch.int16 else tensor.clone()
        distributed.all_reduce(
            total, group=self._cpu_group if tensor.device.type == "cpu" else None
        )
        return total.to(tensor.dtype)

    def all_reduce_mean(self, tensor: Tensor) -> Tensor:
        """Of what each process has."""
        return self.all_reduce_sum(tensor) / self.world_size

    def all_gather(self, tensor: Tensor, dim: int) -> Tensor:
        """What each process has, all of the same shape, in their order."""
        if self.world_size == 1:
            return tensor
        everyone = [torch.empty_like(tensor) for _ in range(self.world_size)]
        distributed.all_gather(everyone, tensor.contiguous())
        return torch.cat(everyone, dim)

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """Of each question, whether any process says yes."""
        if self.world_size == 1:
            return flags
        answers = torch.tensor(flags, dtype=torch.int32)
        distributed.all_reduce(answers, distributed.ReduceOp.MAX, group=self._cpu_group)
        return tuple(map(bool, answers.tolist()))

    def all_reduce_max(self, value: int) -> int:
        """Of what each process says."""
        if self.world_size == 1:
            return value
        said = torch.tensor(value)
        distributed.all_reduce(said, distributed.ReduceOp.MAX, group=self._cpu_group)
        return int(said)

    def run_on_rank_zero(self, work: Callable[[], object]) -> None:
        """Let the first process do something while the others wait.

        Raises:
            AnytimeError: it failed there, which tells why.
            ToldElsewhereError: the same, in the others.
        """
        done = False
        try:
            if self.is_rank_zero:
                work()
            done = True
        finally:
            (failed,) = self.any_rank(not done)
        if failed:
            raise ReportedByRankZeroError("rank 0 reports what is wrong")

    def same_error_on_all_ranks(self, error: AnytimeError) -> AnytimeError:
        """What to raise of an error that all processes find: the first one tells it."""
        return (
            error if self.is_rank_zero else ReportedByRankZeroError("rank 0 reports what is wrong")
        )

    @contextmanager
    def report_peer_exit(self) -> Iterator[None]:
        """Say plainly that another process is gone, in place of what its connection says.

        Raises:
            ProcessGoneError: so it is.
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
        """Part from the others; without it processes that end early break the others' last
        exchange."""
        if self.world_size > 1:
            distributed.barrier()
            distributed.destroy_process_group()


ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_ITEMS_PER_EXCHANGE = 8
"""Items that each process works on between two exchanges."""


class EvaluationProcesses:
    """The processes of `torch.distributed`, where it was set up, or this one alone."""

    def __init__(self) -> None:
        shared = distributed.is_available() and distributed.is_initialized()
        self.world_size: int = distributed.get_world_size() if shared else 1
        self.rank: int = distributed.get_rank() if shared else 0

    def map_in_order(
        self, items: Iterable[ItemT], work: Callable[[ItemT], ResultT]
    ) -> Iterator[ResultT]:
        """The result of every item, in order; each is worked on by one process.

        All processes have to give the same items, and to take all results.
        """
        if self.world_size == 1:
            yield from map(work, items)
            return
        queue = iter(items)
        while some := list(islice(queue, _ITEMS_PER_EXCHANGE * self.world_size)):
            mine = [work(item) for item in some[self.rank :: self.world_size]]
            everyone: list[list[ResultT]] = [[] for _ in range(self.world_size)]
            distributed.all_gather_object(everyone, mine)
            for place in range(len(some)):
                yield everyone[place % self.world_size][place // self.world_size]

    def run_on_rank_zero(self, work: Callable[[], ResultT]) -> ResultT:
        """The result of what the first process does while the others wait."""
        (result,) = self.map_in_order([None], lambda _: work())
        return result


@contextmanager
def torchrun_context() -> Iterator[EvaluationProcesses]:
    """The processes that `torchrun` started together, or this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield EvaluationProcesses()
        return
    distributed.init_process_group("gloo")  # little is exchanged, and it lies on the CPU
    try:
        yield EvaluationProcesses()
    finally:
        distributed.destroy_process_group()


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
