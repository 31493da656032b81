"""Prefetch batches: a thread prepares the next batch while the caller uses the last one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any, Self

from anytime_ar.data.batch import Batch
from anytime_ar.data.shuffling import ShuffledBatches
from anytime_ar.runtime.threads import single_thread_executor
from anytime_ar.runtime.torch_modes import default_torch_modes

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
