"""The processes that train one model together, each with its part of every batch.

All of them run the same program; what they tell each other keeps them at the same point of it. The
first one writes files and shows progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as distributed
from torch import Tensor

from anytime_ar.data import BatchShard
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
