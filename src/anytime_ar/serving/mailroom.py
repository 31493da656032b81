"""Events on their way from the worker's thread to the server's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

from anytime_ar.serving.jobs import Event, Listener, Look

_T = TypeVar("_T")
MOST_BYTES = 2**26
"""What looks take together that nobody has fetched yet: a client that reads slowly misses some."""


class Box(asyncio.Queue[_T]):
    """A queue for one job. Of looks that are not fetched the oldest are dropped, except the last
    one: whoever is behind wants to see what there is now.

    Args:
        weigh: the bytes of a look; None for what is none, and ends the job.
        room: bytes that its looks may take.
    """

    def __init__(self, weigh: Callable[[_T], int | None], room: Callable[[], int]) -> None:
        super().__init__()
        self._weigh, self._room = weigh, room
        self._looks = self._bytes = 0
        self._ended = False

    def _put(self, item: _T) -> None:
        nbytes = self._weigh(item)
        if nbytes is None:
            self._ended = True
        elif self._ended:  # nothing comes after the end
            return
        else:
            self._looks, self._bytes = self._looks + 1, self._bytes + nbytes
        super()._put(item)
        while self._looks > 1 and self._bytes > self._room():
            self._get()

    def _get(self) -> _T:
        item = super()._get()
        nbytes = self._weigh(item)
        if nbytes is not None:
            self._looks, self._bytes = self._looks - 1, self._bytes - nbytes
        return item


class Mailroom:
    """Brings events to queues, as many at once as there are: waking a thread costs more than a
    step.

    Args:
        loop: of the thread in which the queues are read.
        most_bytes: of looks that wait in all queues together, about.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most_bytes: int = MOST_BYTES) -> None:
        self._loop, self._most_bytes = loop, most_bytes
        self._mail: deque[tuple[Box[Event], Event]] = deque()
        self._called = False
        self._boxes: WeakSet[Box[Event]] = WeakSet()

    def box(self) -> tuple[Box[Event], Listener]:
        """A queue, and what puts events into it from another thread."""
        queue = Box(_weigh, lambda: self._most_bytes // max(1, len(self._boxes)))
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


def _weigh(event: Event) -> int | None:
    return event.nbytes if isinstance(event, Look) else None
