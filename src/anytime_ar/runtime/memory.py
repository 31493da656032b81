"""Retain freed memory for reuse instead of returning it to the system."""

from __future__ import annotations

import ctypes
import platform

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # of mallopt(3)


def disable_memory_trimming() -> None:
    """Make this process retain freed memory until it exits; glibc only.

    A training step on CPUs frees and allocates the same large tensors. By default glibc returns
    blocks above 32 MB to the system, which then clears every page again: half the time of a step on
    images of 128 x 128.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
