"""Ctrl-C and SIGTERM between two steps, where everything stands at the same point."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

_DEBOUNCE_S = 1.0
"""Signals so soon after the first one say the same again: both a terminal and `torchrun` tell their
processes."""


class InterruptFlag:
    """Set by the first signal; one that comes later than so many seconds raises."""

    def __init__(self, debounce_s: float) -> None:
        self._debounce_s = debounce_s
        self._number: int | None = None
        self._when = 0.0

    def is_set(self) -> bool:
        """Whether a signal came."""
        return self._number is not None

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The handler of the signals."""
        if self._number is None:
            self._number, self._when = number, time.monotonic()
        elif time.monotonic() - self._when >= self._debounce_s:
            raise self.exception()

    def exception(self) -> BaseException:
        """What ends the program as the signal would have."""
        if self._number == signal.SIGTERM:
            return SystemExit(128 + signal.SIGTERM)
        return KeyboardInterrupt()


_FORWARDED_FLAG: ContextVar[InterruptFlag | None] = ContextVar("_TOLD", default=None)


@contextmanager
def forward_interrupts() -> Iterator[InterruptFlag]:
    """A flag that `defer_interrupts` gives to this thread in the block, in place of one for signals:
    for a process whose signals are those of another program, and who is told of interrupts in
    another way (`handle`)."""
    flag = InterruptFlag(0.0)
    token = _FORWARDED_FLAG.set(flag)
    try:
        yield flag
    finally:
        _FORWARDED_FLAG.reset(token)


@contextmanager
def defer_interrupts(*, term: bool = False) -> Iterator[InterruptFlag]:
    """Notes Ctrl-C, and SIGTERM where asked to, in a flag instead of raising; one that comes
    a while later raises at once.

    An interrupt in the middle of a training step leaves some weights updated and some not, and no
    resumed run could make that good; one in the middle of a draw would throw away its codes. Where
    a signal has not Python's own handler (an application with its own, a background job that
    ignores it, another thread), it stays what it is.
    """
    if (told := _FORWARDED_FLAG.get()) is not None:
        yield told
        return
    flag = InterruptFlag(_DEBOUNCE_S if term else 0.0)
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
        signal.signal(number, flag.handle)
    try:
        yield flag
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


@contextmanager
def exit_on_signal(number: signal.Signals, code: int, message: bytes = b"") -> Iterator[None]:
    """In the block, until something else handles it, a signal ends the program at once."""
    usual = install_exit_handler(number, code, message)
    try:
        yield
    finally:
        if usual is not None:
            signal.signal(number, usual)


def install_exit_handler(number: signal.Signals, code: int, message: bytes = b"") -> Any:
    """Have a signal end the program with an exit code; return the handler that it had.

    An exception instead would be caught, or shown, by whatever library is being imported; and
    SIGTERM that is not handled does not reach the first process of a container at all. Nothing is
    done, and None returned, where the signal has not Python's own handler, and in other threads.

    Args:
        number: SIGINT or SIGTERM.
        code: of the program.
        message: on standard error.
    """
    usual = signal.getsignal(number)
    if threading.current_thread() is not threading.main_thread() or usual not in (
        signal.SIG_DFL,
        signal.default_int_handler,
    ):
        return None

    def end(_number: int, _frame: FrameType | None) -> None:
        try:
            for clean in _cleanups:
                clean()
            os.write(2, message)
        finally:  # whether or not somebody hears it
            os._exit(code)

    signal.signal(number, end)
    return usual


_cleanups: list[Callable[[], object]] = []


@contextmanager
def cleanup_on_signal(cleanup: Callable[[], object]) -> Iterator[None]:
    """In the block, a signal that ends the program at once has this called first; it must not
    raise. Other signals raise exceptions, or are handled by whoever takes them."""
    with ExitStack() as stack:
        for name in ("SIGTERM", "SIGHUP"):  # Windows lacks the second
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                stack.enter_context(exit_on_signal(number, 128 + number))
        _cleanups.append(cleanup)
        stack.callback(_cleanups.remove, cleanup)
        yield
