"""Events on their way from the worker's thread to the server's."""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakSet

from anytime_ar.serving.jobs import Event, Listener


class Mailroom:
    """Brings events to queues, as many at once as there are: waking a thread costs more than a
    step.

    Args:
        loop: of the thread in which the queues are read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._mail: deque[tuple[asyncio.Queue[Event], Event]] = deque()
        self._called = False
        self._boxes: WeakSet[asyncio.Queue[Event]] = WeakSet()

    def box(self) -> tuple[asyncio.Queue[Event], Listener]:
        """A queue, and what puts events into it from another thread."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._boxes.add(queue)

        def post(event: Event) -> None:
            self._mail.append((queue, event))
            if not self._called:
                self._called = True
                self._loop.call_soon_threadsafe(self._deliver)

        return queue, post

    def tell_all(self, event: Event) -> None:
        """Put an event into every queue that somebody still has, from their own thread."""
        for queue in self._boxes:
            queue.put_nowait(event)

    def _deliver(self) -> None:
        self._called = False  # before looking: what comes now calls again
        while self._mail:
            queue, event = self._mail.popleft()
            queue.put_nowait(event)
