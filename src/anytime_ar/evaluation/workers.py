"""Work shared by the processes of an evaluation, with the results of a single one.

Every process runs the whole evaluation and does its share of each loop; results are exchanged and
added up in the order of a single process, so that every figure is the same to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch.distributed as distributed

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
