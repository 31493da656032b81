"""Let computations in other threads end before Python exits.

When Python exits, it ends a daemon thread as soon as the thread asks for the interpreter lock. Up
to Python 3.13 this unwinds the stack of the thread, and an operation of PyTorch on that stack
aborts the process. Memory that an operation still reads may also be freed. So the computations of
other threads end by `SystemExit` before their next step, and Python exits after them. It also waits
for a daemon thread that has just computed and may be freeing tensors.
"""

from __future__ import annotations

import threading
import time

_EXIT_TIMEOUT_S = 10.0
"""Most seconds for which the exit waits for other threads."""
_POLL_S = 0.002
_RECENT_S = 1.0
"""Seconds after its last computation in which a daemon thread may be about to begin another one, or
to free what it has computed. The exit waits as long for it to end."""

_computing: dict[object, int] = {}
"""Identifiers of the threads that compute, by the object that entered the computation."""
_left_at: dict[int, float] = {}
"""Time at which each thread last ended a computation, by its identifier."""
_exiting_thread: int | None = None
"""Identifier of the thread in which Python exits; None before."""


def enter_computation(key: object) -> None:
    """Note that this thread computes, until `leave_computation`.

    Args:
        key: identifies the computation.

    Raises:
        SystemExit: Python exits in another thread.
    """
    _computing[key] = threading.get_ident()
    try:
        end_if_exiting()  # after the note, which the exiting thread looks for
    except SystemExit:
        leave_computation(key)
        raise


def leave_computation(key: object) -> None:
    """Note that a computation has ended."""
    _left_at[_computing.pop(key)] = time.monotonic()


def end_if_exiting() -> None:
    """End this thread if Python exits in another one. Long computations call this in every step.

    Raises:
        SystemExit: Python exits in another thread.
    """
    if _exiting_thread is not None and _exiting_thread != threading.get_ident():
        raise SystemExit


def end_other_computations() -> None:
    """End the computations of all other threads, and refuse new ones, before Python exits."""
    global _exiting_thread
    _exiting_thread = own = threading.get_ident()
    give_up_at = time.monotonic() + _EXIT_TIMEOUT_S
    while any(thread != own for thread in list(_computing.values())):
        if time.monotonic() > give_up_at:
            return
        time.sleep(_POLL_S)
    begin = time.monotonic()
    recent = {thread for thread, left in _left_at.items() if begin - left < _RECENT_S}
    while time.monotonic() - begin < _RECENT_S and any(
        thread.daemon and thread.ident in recent - {own} for thread in threading.enumerate()
    ):
        time.sleep(_POLL_S)


def forget_other_threads() -> None:
    """Forget the computations of threads that a forked process does not have."""
    own = threading.get_ident()
    for key in [key for key, thread in _computing.items() if thread != own]:
        del _computing[key]
    _left_at.clear()
