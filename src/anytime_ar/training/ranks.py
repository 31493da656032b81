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

from anytime_ar.data import Part
from anytime_ar.errors import AnytimeError, ProcessGoneError, ToldElsewhereError


class Ranks:
    """The processes of `torch.distributed`, where it was set up, or this one alone."""

    def __init__(self) -> None:
        shared = distributed.is_available() and distributed.is_initialized()
        self.count: int = distributed.get_world_size() if shared else 1
        self.rank: int = distributed.get_rank() if shared else 0
        self._on_cpu = None  # the group for what lies there, and does not wait for a GPU
        if self.count > 1 and distributed.get_backend() != "gloo":
            self._on_cpu = distributed.new_group(backend="gloo")

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def part(self, turn: int = 0, turns: int = 1) -> Part:
        """The part of a batch that is this process's in one of its passes over it."""
        return Part(self.rank * turns + turn, self.count * turns)

    def sum(self, mine: Tensor) -> Tensor:
        """Of what each process has."""
        if self.count == 1:
            return mine
        # Gloo knows no int16.
        total = mine.int() if mine.dtype == torch.int16 else mine.clone()
        distributed.all_reduce(total, group=self._on_cpu if mine.device.type == "cpu" else None)
        return total.to(mine.dtype)

    def mean(self, mine: Tensor) -> Tensor:
        """Of what each process has."""
        return self.sum(mine) / self.count

    def concatenate(self, mine: Tensor, dim: int) -> Tensor:
        """What each process has, all of the same shape, in their order."""
        if self.count == 1:
            return mine
        everyone = [torch.empty_like(mine) for _ in range(self.count)]
        distributed.all_gather(everyone, mine.contiguous())
        return torch.cat(everyone, dim)

    def any(self, *mine: bool) -> tuple[bool, ...]:
        """Of each question, whether any process says yes."""
        if self.count == 1:
            return mine
        answers = torch.tensor(mine, dtype=torch.int32)
        distributed.all_reduce(answers, distributed.ReduceOp.MAX, group=self._on_cpu)
        return tuple(map(bool, answers.tolist()))

    def highest(self, mine: int) -> int:
        """Of what each process says."""
        if self.count == 1:
            return mine
        said = torch.tensor(mine)
        distributed.all_reduce(said, distributed.ReduceOp.MAX, group=self._on_cpu)
        return int(said)

    def first(self, work: Callable[[], object]) -> None:
        """Let the first process do something while the others wait.

        Raises:
            AnytimeError: it failed there, which tells why.
            ToldElsewhereError: the same, in the others.
        """
        done = False
        try:
            if self.is_first:
                work()
            done = True
        finally:
            (failed,) = self.any(not done)
        if failed:
            raise ToldElsewhereError("the first process says what is wrong")

    def alike(self, error: AnytimeError) -> AnytimeError:
        """What to raise of an error that all processes find: the first one tells it."""
        return (
            error if self.is_first else ToldElsewhereError("the first process says what is wrong")
        )

    @contextmanager
    def the_gone_told(self) -> Iterator[None]:
        """Say plainly that another process is gone, in place of what its connection says.

        Raises:
            ProcessGoneError: so it is.
        """
        try:
            yield
        except RuntimeError as error:
            of_connection = "gloo" in str(error) or isinstance(error, distributed.DistError)
            if self.count > 1 and of_connection:
                raise ProcessGoneError(
                    "another process of this run has ended; see what it says, and resume"
                ) from error
            raise

    def leave(self) -> None:
        """Part from the others; without it processes that end early break the others' last
        exchange."""
        if self.count > 1:
            distributed.barrier()
            distributed.destroy_process_group()
