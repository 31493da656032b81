"""Check callers' tensors, and guard those that compiled code reads against moves and changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from itertools import compress
from operator import attrgetter, is_not
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
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


def device_of(network: nn.Module) -> torch.device:
    """Return the device of the weights of a network; without weights, the default device."""
    weight = next(network.parameters(), None)
    return torch.empty(0).device if weight is None else weight.device


def check_weights(network: nn.Module, what: str) -> None:
    """Check that the weights of a network have values.

    Args:
        network: any module.
        what: what the network is used for, for the message.

    Raises:
        InputError: a parameter or buffer is on the device `meta`.
    """
    if any(weight.is_meta for weight in (*network.parameters(), *network.buffers())):
        raise InputError(
            f"the {what} {type(network).__name__} has weights on the device meta, which holds no "
            "values; build it on another device, or load its weights"
        )


def cast_floats(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in another floating-point format; integer tensors stay as they are."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def first_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the first name of each weight, by name: those of tied weights are the same."""
    first: dict[Any, str] = {}
    return {
        name: first.setdefault(
            (w.data_ptr(), w.shape, w.stride(), w.dtype) if w.data_ptr() else name, name
        )
        for name, w in state.items()
    }


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights and their names, in the given order, in hexadecimal."""
    digest = hashlib.sha256()
    for name, weight in weights.items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


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

    A move to shared memory is no change. Writing through `.data` bypasses PyTorch's versions. It is
    noticed on the CPU by one value of each weight, and if the weight gets other memory.

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
        self._sampled = [*map(_sample_bytes, self._tensors)]
        self._memory = self._sample_memory()

    def changed(self) -> bool:
        """Return whether a weight was replaced, written to, converted or moved to a device."""
        if (
            sum(map(len, self._tables)) != len(self._names)
            or any(map(is_not, map(dict.get, self._owners, self._names), self._values))
            or [*map(_VERSION, self._counting)] != self._versions
        ):
            return True
        # A move to shared memory frees the memory that the views read. CPython lets other threads
        # run after calls, of which there is none between the comparison and the end of `join`.
        addresses, join, views, sampled = self._memory
        if [*map(Tensor.data_ptr, self._tensors)] == addresses:
            return join(views) != sampled
        if [*map(_FORMAT, self._tensors)] != self._formats:
            return True
        if [*map(_sample_bytes, self._tensors)] != self._sampled:
            return True
        self._memory = self._sample_memory()
        return False

    def _sample_memory(self) -> _SampledMemory:
        """Find where the weights are, and view one value of each there.

        The addresses come first: if a weight moves meanwhile, they are no longer right, and its
        view is not read.
        """
        addresses = [*map(Tensor.data_ptr, self._tensors)]
        is_on_cpu = [tensor.device.type == "cpu" for tensor in self._tensors]
        views = [_sample(tensor).data for tensor in compress(self._tensors, is_on_cpu)]
        sampled = b"".join(compress(self._sampled, is_on_cpu))
        return _SampledMemory(addresses, b"".join, views, sampled)


class _SampledMemory(NamedTuple):
    """One value of each weight on the CPU."""

    addresses: list[int]
    """Address of each weight, on any device."""
    join: Callable[[Iterable[memoryview]], bytes]
    """Joins the values to one."""
    views: list[memoryview]
    """A view of each value."""
    sampled: bytes
    """The values as they were."""


def _sample(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """Return the bytes of the value in the middle of a tensor; of one on the CPU, no copy."""
    if tensor.numel() == 0:
        return np.zeros(0, dtype=np.uint8)
    middle = tensor.detach()[tuple(size // 2 for size in tensor.shape)]
    return middle.cpu().unsqueeze(0).view(torch.uint8).numpy()


def _sample_bytes(tensor: Tensor) -> bytes:
    """Return a copy of the bytes of the value in the middle of a tensor."""
    return _sample(tensor).tobytes()


_VERSION = attrgetter("_version")
"""Returns the number of writes to a tensor."""
_FORMAT = attrgetter("dtype", "device")
"""Returns the number format and the device of a tensor."""
