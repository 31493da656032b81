"""Ctrl-C and SIGTERM between two steps, where everything stands at the same point."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

_SAME_S = 1.0
"""Signals so soon after the first one say the same again: both a terminal and `torchrun` tell their
processes."""


class InterruptFlag:
    """Set by the first signal; one that comes later than so many seconds raises."""

    def __init__(self, same_s: float) -> None:
        self._same_s = same_s
        self._number: int | None = None
        self._when = 0.0

    def is_set(self) -> bool:
        """Whether a signal came."""
        return self._number is not None

    def note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The handler of the signals."""
        if self._number is None:
            self._number, self._when = number, time.monotonic()
        elif time.monotonic() - self._when >= self._same_s:
            raise self.error()

    def error(self) -> BaseException:
        """What ends the program as the signal would have."""
        if self._number == signal.SIGTERM:
            return SystemExit(128 + signal.SIGTERM)
        return KeyboardInterrupt()


_TOLD: ContextVar[InterruptFlag | None] = ContextVar("_TOLD", default=None)


@contextmanager
def interrupts_told() -> Iterator[InterruptFlag]:
    """A flag that `interrupts_held` gives to this thread in the block, in place of one for signals:
    for a process whose signals are those of another program, and who is told of interrupts in
    another way (`note`)."""
    flag = InterruptFlag(0.0)
    token = _TOLD.set(flag)
    try:
        yield flag
    finally:
        _TOLD.reset(token)


@contextmanager
def interrupts_held(*, term: bool = False) -> Iterator[InterruptFlag]:
    """Notes Ctrl-C, and SIGTERM where asked to, in a flag instead of raising; one that comes
    a while later raises at once.

    An interrupt in the middle of a training step leaves some weights updated and some not, and no
    resumed run could make that good; one in the middle of a draw would throw away its codes. Where
    a signal has not Python's own handler (an application with its own, a background job that
    ignores it, another thread), it stays what it is.
    """
    if (told := _TOLD.get()) is not None:
        yield told
        return
    flag = InterruptFlag(_SAME_S if term else 0.0)
    usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler}
    if term:
        usual[signal.SIGTERM] = signal.SIG_DFL
    ours = {
        number: handler
        for number, handler in usual.items()
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(number) is handler
    }
    for number in ours:
        signal.signal(number, flag.note)
    try:
        yield flag
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


@contextmanager
def ended_by_term() -> Iterator[None]:
    """SIGTERM ends the program at once, with exit code 0, until something else handles it.

    Signals that it does not handle do not reach the first process of a container, not even those
    that would end it. An exception instead would be caught by whatever library is being imported.
    """
    usual = signal.SIG_DFL
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not usual
    ):
        yield
        return
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)
