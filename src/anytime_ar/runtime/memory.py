"""Memory that is used again and again, kept rather than given back."""

from __future__ import annotations

import ctypes
import platform

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # of mallopt(3)


def disable_memory_trimming() -> None:
    """From now on this process keeps what it has had of memory, for as long as it lives.

    A training step on CPUs frees and takes the same large tensors, and the C library of Linux gives
    back whatever is larger than 32 MB, so that the system clears every page of it anew: half the
    time of a step on images of 128 x 128. Elsewhere nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
