"""Limit the size of what files from strangers describe: a few lines can exceed all memory.

YAML may repeat its values by aliases. A configuration may name any size, and its network would be
allocated before its first weight is found to be missing. So parameters are counted as they are
built, and compared with the headers of the weight files. Time and memory of loading are bounded by
the size of the files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from anytime_ar.errors import BundleError, InputError
from anytime_ar.runtime.torch_modes import FACTORIES

MAX_YAML_VALUES, MAX_YAML_DEPTH = 100_000, 64
"""Largest number of values in a YAML file, and deepest nesting, with aliases expanded."""
_MAX_RATIO = 16
"""Largest ratio of built to stored elements and tensors: networks have tables and moving averages
as well."""
_FREE_ELEMENTS, _FREE_TENSORS = 2**25, 2**12
"""Elements and tensors that networks may have regardless of what is stored; the elements are 128
MB."""


def check_yaml_size(path: Path) -> None:
    """Check that a YAML file is not too large or too deep, without building its content.

    A file that is not YAML is left to its reader.

    Args:
        path: the file to check.

    Raises:
        InputError: aliases expand to too many values or to themselves, or values are nested too
            deeply.
    """
    sizes: dict[str, int] = {}  # number of values of each anchored node
    open_: list[tuple[str | None, int]] = [(None, 0)]  # anchor, values so far
    try:
        for event in yaml.parse(path.read_bytes(), Loader=yaml.SafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                open_.append((event.anchor, 1))
                size = 0
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, size = open_.pop()
                if anchor is not None:
                    sizes[anchor] = size
            elif isinstance(event, yaml.AliasEvent):
                size = sizes.get(event.anchor or "", MAX_YAML_VALUES + 1)
            elif isinstance(event, yaml.ScalarEvent):
                size = 1
                if event.anchor is not None:
                    sizes[event.anchor] = size
            else:
                continue
            anchor, before = open_[-1]
            open_[-1] = anchor, before + size
            if before + size > MAX_YAML_VALUES or len(open_) > MAX_YAML_DEPTH:
                raise InputError(
                    f"{path} holds over {MAX_YAML_VALUES:,} values, or {MAX_YAML_DEPTH} within "
                    "each other, aliases counted as what they stand for; write settings without "
                    "them"
                )
    except yaml.YAMLError:
        return


def check_npy_size(file: IO[bytes], max_bytes: int) -> None:
    """Check that an array in the .npy format is not larger than its file.

    Args:
        file: a handle at the start of the array; its header is read.
        max_bytes: size of the file, in bytes.

    Raises:
        ValueError: the declared array is larger, or not in version 1.0 of the format.
    """
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not version 1.0 of the .npy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if math.prod(shape) * dtype.itemsize > max_bytes:
        raise ValueError(f"an array of {shape} {dtype} is larger than the file")


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
    """A mode that skips the random initialization of parameters, a third of the loading time.

    Networks that are built in it have arbitrary parameters, which the stored weights replace.
    Buffers are initialized, because weights do not hold all of them. Networks that are much larger
    than the stored weights raise `BundleError` before they allocate memory.

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

    def __enter__(self) -> Self:
        """Store the state of PyTorch's global random generator."""
        self._random_state = torch.get_rng_state()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        """Restore the state of the generator, which initial values of buffers may have advanced."""
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        torch.set_rng_state(self._random_state)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Skip initializers of parameters, and count the elements of factory functions first.

        Raises:
            BundleError: the networks are much larger than the stored weights.
        """
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            tensor = kwargs["tensor"]  # torch.nn.init passes it by name
            if isinstance(tensor, nn.Parameter):
                return tensor
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
