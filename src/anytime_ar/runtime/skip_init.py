"""Build networks without initialization for stored weights, and limit their size to these.

A configuration from an unknown origin may name any size, and its network would be allocated before
its first weight is found to be missing. So parameters are counted as they are built, and compared
with the headers of the weight files. Time and memory of loading are bounded by the size of the
files.
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
"""Largest ratio of built to stored elements and tensors: networks have tables and moving averages
as well."""
_FREE_ELEMENTS, _FREE_TENSORS = 2**25, 2**12
"""Elements and tensors that networks may have regardless of what is stored; the elements are 128
MB."""


class StoredSize(NamedTuple):
    """The number of tensors and elements in weight files."""

    tensors: int
    elements: int
    """Number of elements in all tensors."""


def stored_size(paths: Sequence[Path]) -> StoredSize:
    """Count tensors and elements of safetensors files from their headers.

    Args:
        paths: the weight files.

    Raises:
        BundleError: a file is missing, or is not in this format.
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
    """A mode that skips the random initialization of `torch.nn.init`, a third of the loading time.

    Networks that are built in it have arbitrary weights, and no random generator advances. Networks
    that are much larger than the stored weights raise `BundleError` before they allocate memory.

    Args:
        config: the file that describes the networks, for messages.
        stored: size of the weights for the networks.
    """

    def __init__(self, config: Path, stored: StoredSize) -> None:
        """Compute how many elements and tensors may be built."""
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
        """Skip initializers, and count the elements of factory functions before they run.

        Raises:
            BundleError: the networks are much larger than the stored weights.
        """
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]  # torch.nn.init passes it by name
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
