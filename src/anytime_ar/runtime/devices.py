"""Resolve devices by name."""

from __future__ import annotations

import torch

from anytime_ar.errors import InputError


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
