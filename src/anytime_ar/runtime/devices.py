"""Devices by name."""

from __future__ import annotations

import torch

from anytime_ar.errors import InputError


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of that name; `auto` is the best there is.

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
