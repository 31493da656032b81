"""Reading while somebody computes: the next batch is made as the last one is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any, Self

from anytime_ar.data.batch import Batch
from anytime_ar.data.shuffling import ShuffledBatches
from anytime_ar.runtime.threads import single_thread_executor
from anytime_ar.runtime.torch_modes import default_torch_modes

_BatchAndState = tuple[Batch, dict[str, int]]
"""A batch, and where the next one begins."""


class Prefetcher(Iterator[Batch]):
    """The same batches, each read by a thread of its own before it is asked for. What fails there
    is told with the batch that it belongs to.

    Args:
        batches: nobody else may use them.
    """

    def __init__(self, batches: ShuffledBatches) -> None:
        self._batches = batches
        self._state = batches.state_dict()
        self._thread = single_thread_executor("anytime-read")
        self._next: Future[_BatchAndState] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        current = self._next or self._thread.submit(self._read)
        self._next = None
        batch, self._state = current.result()
        self._next = self._thread.submit(self._read)
        return batch

    @default_torch_modes()
    def _read(self) -> _BatchAndState:
        return next(self._batches), self._batches.state_dict()

    def state_dict(self) -> dict[str, int]:
        """Where the batch after the last one that was given begins; see `ShuffledBatches`."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `ShuffledBatches`."""
        if self._next is not None:
            wait([self._next])
            self._next = None
        self._batches.load_state_dict(state)
        self._state = self._batches.state_dict()
