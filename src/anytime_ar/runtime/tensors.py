"""Check callers' tensors, and guard those that compiled code reads against moves and changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from anytime_ar.errors import InputError


def check_dense(name: str, tensor: Tensor) -> None:
    """Check that a tensor has its numbers in plain memory.

    Args:
        name: what the tensor holds, for the message.
        tensor: the tensor to check.

    Raises:
        InputError: it is sparse, nested, quantized, or on the device `meta`, without numbers.
    """
    kind = ""
    if tensor.is_nested:
        kind = "nested"
    elif tensor.layout != torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
    elif tensor.is_quantized:
        kind = "quantized"
    elif tensor.is_meta:
        kind = "meta"
    if kind:
        raise InputError(
            f"{name} are a {kind} tensor; pass a plain one, with a number for each position"
        )


class BoundToProcess:
    """Mixin of objects that hold addresses of this process, which no copy may have.

    Pickling for another process moves tensors to shared memory one by one, so it is refused before
    the first one.
    """

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be pickled and to be copied.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"a {type(self).__name__} holds memory of this process and cannot be copied; copy or "
            "pickle the model, whose copy makes its own"
        )


class WeightVersions:
    """The versions of all weights of some networks, to notice later changes.

    A move to shared memory is no change. Writing through `.data` bypasses PyTorch's versions and is
    not noticed.

    Args:
        networks: the networks whose parameters and buffers are watched.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        """Store the present weights and their versions."""
        self._modules = [module for network in networks for module in network.modules()]
        self._tensors = self._find_tensors()
        self._versions = [*map(_version, self._tensors)]

    def changed(self) -> bool:
        """Return whether a weight was replaced, written to, converted or moved to a device."""
        tensors = self._find_tensors()
        return (
            len(tensors) != len(self._tensors)
            or any(now is not then for now, then in zip(tensors, self._tensors, strict=True))
            or [*map(_version, tensors)] != self._versions
        )

    def _find_tensors(self) -> list[Tensor]:
        """Return all parameters and buffers."""
        return [
            tensor
            for module in self._modules
            for named in (module._parameters, module._buffers)
            for tensor in named.values()
            if tensor is not None
        ]


def _version(tensor: Tensor) -> tuple[int, torch.dtype, torch.device]:
    """Return the number of writes to a tensor, its number format and its device."""
    try:
        writes = tensor._version
    except RuntimeError:  # tensors made in inference mode do not count
        writes = 0
    return writes, tensor.dtype, tensor.device
