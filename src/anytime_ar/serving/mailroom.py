"""Events on their way from the worker's thread to the server's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

from anytime_ar.serving.jobs import JobEvent, Listener, PreviewEvent

_T = TypeVar("_T")
MAX_PREVIEW_BYTES = 2**26
"""What looks take together that nobody has fetched yet: a client that reads slowly misses some."""


class EventQueue(asyncio.Queue[_T]):
    """A queue for one job. Of looks that are not fetched the oldest are dropped, except the last
    one: whoever is behind wants to see what there is now.

    Args:
        preview_bytes: the bytes of a look; None for what is none, and ends the job.
        max_bytes: bytes that its looks may take.
    """

    def __init__(
        self, preview_bytes: Callable[[_T], int | None], max_bytes: Callable[[], int]
    ) -> None:
        super().__init__()
        self._preview_bytes, self._max_bytes = preview_bytes, max_bytes
        self._previews = self._bytes = 0
        self._ended = False

    def _put(self, item: _T) -> None:
        nbytes = self._preview_bytes(item)
        if nbytes is None:
            self._ended = True
        elif self._ended:  # nothing comes after the end
            return
        else:
            self._previews, self._bytes = self._previews + 1, self._bytes + nbytes
        super()._put(item)
        while self._previews > 1 and self._bytes > self._max_bytes():
            self._get()

    def _get(self) -> _T:
        item = super()._get()
        nbytes = self._preview_bytes(item)
        if nbytes is not None:
            self._previews, self._bytes = self._previews - 1, self._bytes - nbytes
        return item


class ThreadBridge:
    """Brings events to queues, as many at once as there are: waking a thread costs more than a
    step.

    Args:
        loop: of the thread in which the queues are read.
        max_bytes: of looks that wait in all queues together, about.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_bytes: int = MAX_PREVIEW_BYTES) -> None:
        self._loop, self._max_bytes = loop, max_bytes
        self._pending: deque[tuple[EventQueue[JobEvent], JobEvent]] = deque()
        self._wakeup_scheduled = False
        self._queues: WeakSet[EventQueue[JobEvent]] = WeakSet()

    def open_queue(self) -> tuple[EventQueue[JobEvent], Listener]:
        """A queue, and what puts events into it from another thread."""
        queue = EventQueue(preview_nbytes, lambda: self._max_bytes // max(1, len(self._queues)))
        self._queues.add(queue)

        def post(event: JobEvent) -> None:
            self._pending.append((queue, event))
            if not self._wakeup_scheduled:
                self._wakeup_scheduled = True
                self._loop.call_soon_threadsafe(self._deliver)

        return queue, post

    def broadcast(self, event: JobEvent) -> None:
        """Put an event into every queue that somebody still has, from their own thread."""
        for queue in self._queues:
            queue.put_nowait(event)

    def _deliver(self) -> None:
        self._wakeup_scheduled = False  # before looking: what comes now calls again
        while self._pending:
            queue, event = self._pending.popleft()
            queue.put_nowait(event)


def preview_nbytes(event: JobEvent) -> int | None:
    return event.nbytes if isinstance(event, PreviewEvent) else None
