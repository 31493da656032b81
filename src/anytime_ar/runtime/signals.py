"""Handle Ctrl-C and SIGTERM between two steps, where all state is consistent."""

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
"""Seconds in which a second signal counts as the first one again: a terminal and `torchrun` both
send signals to their processes."""


class Terminated(SystemExit):
    """Exit by SIGTERM.

    Args:
        message: what was saved and how to go on; empty: nothing to say.
    """

    def __init__(self, message: str = "") -> None:
        """Store the message beside the exit code."""
        super().__init__(128 + signal.SIGTERM)
        self.message = message


class InterruptFlag:
    """A flag that the first signal sets; a later signal raises.

    Args:
        debounce_s: seconds after the first signal in which others are ignored.
    """

    def __init__(self, debounce_s: float) -> None:
        """Start with the flag unset."""
        self._debounce_s = debounce_s
        self._number: int | None = None
        self._when = 0.0

    def is_set(self) -> bool:
        """Return whether a signal came."""
        return self._number is not None

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Handle a signal: set the flag, or raise if it was set more than `debounce_s` ago."""
        if self._number is None:
            self._number, self._when = number, time.monotonic()
        elif time.monotonic() - self._when >= self._debounce_s:
            raise self.exception()

    def exception(self, where: str = "") -> BaseException:
        """Return the exception that ends the program as the signal would have.

        Args:
            where: where the work stopped and what is saved, to follow a verb.
        """
        if self._number == signal.SIGTERM:
            return Terminated(f"ended by SIGTERM {where}".rstrip())
        return KeyboardInterrupt(f"interrupted {where}".rstrip())


@contextmanager
def raise_on_term() -> Iterator[None]:
    """Raise `Terminated` at SIGTERM in the block, as Python raises at Ctrl-C.

    In an application with a handler of its own, and in other threads, nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise_terminated(_number: int, _frame: FrameType | None) -> None:
    """Raise the exception that ends the process, on SIGTERM."""
    raise Terminated("ended by SIGTERM")


_FORWARDED_FLAG: ContextVar[InterruptFlag | None] = ContextVar("_TOLD", default=None)
"""Flag that `defer_interrupts` yields in place of one for signals."""


@contextmanager
def forward_interrupts() -> Iterator[InterruptFlag]:
    """Yield a flag that `defer_interrupts` uses in this thread instead of handling signals.

    It is for a process whose signals belong to another program, and which is notified of interrupts
    by a call of `handle`.
    """
    flag = InterruptFlag(0.0)
    token = _FORWARDED_FLAG.set(flag)
    try:
        yield flag
    finally:
        _FORWARDED_FLAG.reset(token)


@contextmanager
def defer_interrupts(*, term: bool = False) -> Iterator[InterruptFlag]:
    """Record Ctrl-C in a flag in the block instead of raising; a second one raises at once.

    An interrupt in the middle of a training step would leave some weights updated and others not,
    which no resumed run could repair. One in the middle of sampling would lose its codes. A signal
    without Python's own handler, or that of `raise_on_term`, stays as it is: in an application with
    its own handler, in a background job that ignores it, or in another thread.

    Args:
        term: record SIGTERM as well. A second signal then raises only after a second has passed.
    """
    if (forwarded := _FORWARDED_FLAG.get()) is not None:
        yield forwarded
        return
    flag = InterruptFlag(_DEBOUNCE_S if term else 0.0)
    usual: dict[signal.Signals, Any] = {signal.SIGINT: (signal.default_int_handler,)}
    if term:
        usual[signal.SIGTERM] = (signal.SIG_DFL, _raise_terminated)
    ours = {
        number: signal.getsignal(number)
        for number, handlers in usual.items()
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(number) in handlers
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
    """End the program at once at a signal in the block, until something else handles it.

    Args:
        number: SIGINT, SIGTERM or SIGHUP.
        code: exit code of the program.
        message: text for standard error.
    """
    usual = install_exit_handler(number, code, message)
    try:
        yield
    finally:
        if usual is not None:
            signal.signal(number, usual)


def install_exit_handler(number: signal.Signals, code: int, message: bytes = b"") -> Any:
    """Make a signal end the program with an exit code, and return its previous handler.

    An exception would be caught, or shown, by whatever library is being imported. An unhandled
    SIGTERM does not reach the first process of a container at all. If the signal does not have
    Python's own handler, or in other threads, nothing is done and None is returned.

    Args:
        number: SIGINT, SIGTERM or SIGHUP.
        code: exit code of the program.
        message: text for standard error.
    """
    usual = signal.getsignal(number)
    if threading.current_thread() is not threading.main_thread() or usual not in (
        signal.SIG_DFL,
        signal.default_int_handler,
    ):
        return None

    def end(_number: int, _frame: FrameType | None) -> None:
        """Run the cleanups, write the message and exit."""
        try:
            for clean in _cleanups:
                clean()
            os.write(2, message)
        finally:  # even if the message cannot be written
            os._exit(code)

    signal.signal(number, end)
    return usual


_cleanups: list[Callable[[], object]] = []
"""Functions to call before a signal ends the program."""


@contextmanager
def cleanup_on_signal(cleanup: Callable[[], object]) -> Iterator[None]:
    """Call a function before a signal ends the program at once in the block.

    Other signals raise exceptions, or have handlers of their own.

    Args:
        cleanup: the function, which must not raise.
    """
    with ExitStack() as stack:
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                stack.enter_context(exit_on_signal(number, 128 + number))
        _cleanups.append(cleanup)
        stack.callback(_cleanups.remove, cleanup)
        yield


@contextmanager
def delay_signals() -> Iterator[None]:
    """Deliver Ctrl-C, SIGTERM and SIGHUP to this thread only after the block.

    Processes that are started in the block ignore these signals. Nothing is delayed on Windows.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
