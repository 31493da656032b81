"""Resolve devices by name, and keep freed memory of the CPU for reuse."""

from __future__ import annotations

import ctypes
import platform

import torch

from anytime_ar.errors import InputError

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # of mallopt(3)


def resolve_device(name: str | torch.device) -> torch.device:
    """Return the device of a name; `auto` is the accelerator, or the CPU if there is none.

    Args:
        name: `auto`, or a device of PyTorch.

    Raises:
        InputError: there is no such device on this machine.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        return torch.empty(0, dtype=torch.float32, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {str(name)!r} is not there; pass cpu or auto") from error


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
