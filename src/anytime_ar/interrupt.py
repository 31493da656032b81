"""Ctrl-C between two steps, where everything stands at the same point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class InterruptFlag:
    """Set by the first Ctrl-C; the second raises."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._set

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signal."""
        if self._set:
            signal.default_int_handler(number, frame)
        self._set = True


@contextmanager
def interrupts_held() -> Iterator[InterruptFlag]:
    """Notes Ctrl-C in a flag instead of raising; a second one raises at once.

    An interrupt in the middle of a training step leaves some weights updated and some not, and no
    resumed run could make that good; one in the middle of a draw would throw away its codes. Where
    Ctrl-C is not Python's own KeyboardInterrupt (an application with its own handler, a background
    job that ignores it, another thread), it stays what it is.
    """
    flag = InterruptFlag()
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, flag.note)
    try:
        yield flag
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
