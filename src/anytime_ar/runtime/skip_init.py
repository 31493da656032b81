"""Building networks for weights that are read right after, and no larger than these.

A configuration of unknown origin may name any size, and a network of that size would be allocated
before its first weight is missed. So what is built is counted, and compared with the headers of the
files beside it: loading is bounded in time and memory by the size of what is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch.overrides import TorchFunctionMode

from anytime_ar.errors import BundleError
from anytime_ar.runtime.torch_modes import FACTORIES

_MAX_RATIO = 16
"""Numbers and tensors that networks may have for each that is stored: they hold tables and moving
averages as well."""
_FREE_ELEMENTS, _FREE_TENSORS = 2**25, 2**12
"""What they may have of themselves: 128 MB."""


class StoredSize(NamedTuple):
    """What is stored."""

    tensors: int
    elements: int


def stored_size(paths: Sequence[Path]) -> StoredSize:
    """Count what safetensors files hold, by their headers.

    Raises:
        BundleError: a file is missing, or something else.
    """
    sizes = []
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                sizes += [math.prod(file.get_slice(name).get_shape()) for name in names]
        except FileNotFoundError as error:
            raise BundleError(f"{path} is missing; get the bundle again") from error
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{path} does not fit its config.json: {error}") from error
    return StoredSize(len(sizes), sum(sizes))


class SkipInit(TorchFunctionMode):
    """Leave out random draws of `torch.nn.init`, a third of the time that loading a model takes.

    Networks that are built under it have arbitrary weights, and no random generator moves. Those
    that are much larger than what is stored raise `BundleError`, before they take memory.

    Args:
        config: the file that describes them.
        stored: what the networks are built for.
    """

    def __init__(self, config: Path, stored: StoredSize) -> None:
        super().__init__()
        self._config = config
        self._stored = stored
        self._elements_left = _FREE_ELEMENTS + _MAX_RATIO * stored.elements
        self._tensors_left = _FREE_TENSORS + _MAX_RATIO * stored.tensors

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]  # by name, whatever the caller does
        if func in FACTORIES:
            self._elements_left -= func(*args, **kwargs | {"device": torch.device("meta")}).numel()
            self._tensors_left -= 1
            if min(self._elements_left, self._tensors_left) < 0:
                raise BundleError(
                    f"{self._config} describes networks that are much larger than the "
                    f"{self._stored.elements:,} numbers in {self._stored.tensors:,} tensors beside "
                    "it; get the model again"
                )
        return func(*args, **kwargs)
