"""Check callers' tensors, and guard those that compiled code reads against moves and changes."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, is_not
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
        # Lists that C functions read: `changed` runs at every call of a model.
        self._tables: list[dict[str, Any]] = [
            table
            for network in networks
            for module in network.modules()
            for table in (module._parameters, module._buffers)
            if table
        ]
        self._owners = [table for table in self._tables for _ in table]
        self._names = [name for table in self._tables for name in table]
        self._values = [*map(dict.get, self._owners, self._names)]
        self._tensors = [value for value in self._values if value is not None]
        # Tensors made in inference mode do not count writes.
        self._counting = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._versions = [*map(_VERSION, self._counting)]
        self._formats = [*map(_FORMAT, self._tensors)]

    def changed(self) -> bool:
        """Return whether a weight was replaced, written to, converted or moved to a device."""
        return (
            sum(map(len, self._tables)) != len(self._names)
            or any(map(is_not, map(dict.get, self._owners, self._names), self._values))
            or [*map(_VERSION, self._counting)] != self._versions
            or [*map(_FORMAT, self._tensors)] != self._formats
        )


_VERSION = attrgetter("_version")
"""Returns the number of writes to a tensor."""
_FORMAT = attrgetter("dtype", "device")
"""Returns the number format and the device of a tensor."""
