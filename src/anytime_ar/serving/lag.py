"""How far the server's own thread is behind: with more requests than it can read, deadlines pass
before anyone has seen them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MAX_LAG_S = 0.5
"""Behind by more than this, requests are turned away at the door, at a tenth of their cost."""
_LAG_INTERVAL_S = 0.01
_LAG_DECAY = 0.8


class EventLoopLag:
    """Watches the event loop.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds = 0.0
        """That a request waits, about, until it is looked at."""

    @property
    def overloaded(self) -> bool:
        """Whether there is more to do than can be done."""
        return self.seconds > MAX_LAG_S

    async def measure(self) -> None:
        """Until it is cancelled."""
        while True:
            begin = self._clock()
            await asyncio.sleep(_LAG_INTERVAL_S)
            late_s = max(0.0, self._clock() - begin - _LAG_INTERVAL_S)
            self.seconds = max(late_s, _LAG_DECAY * self.seconds)
