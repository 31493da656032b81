"""Checks of what is handed to the kernel, which reads and writes wherever it is told to."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.kernel.compiling import BuildError
from anytime_ar.kernel.loading import kernel_library

_STRUCT_NAMES = (
    "Linear",
    "Norm",
    "Block",
    "Prior",
    "Choice",
    "Rows",
    "Residual",
    "Stage",
    "Decoder",
)
"""Those of layout.h, in the order of `anytime_sizes`."""
_OUT_OF_MEMORY, UNKNOWN_CODE = 1, 2
"""Of `Status` in layout.h; 0 is success."""


def checked_data_ptr(tensor: Tensor, dtype: torch.dtype, *shape: int) -> int:
    """Return where the numbers of a tensor lie.

    Args:
        tensor: contiguous, on the CPU; it has to live as long as the kernel uses the address.
        dtype: that the kernel takes the numbers for.
        shape: likewise.

    Raises:
        InputError: the tensor is another one.
    """
    plain = tensor.device.type == "cpu" and tensor.layout == torch.strided
    if not plain or tensor.dtype != dtype or tensor.shape != shape or not tensor.is_contiguous():
        raise InputError(
            f"the kernel takes contiguous {dtype} {list(shape)} on the CPU, got {tensor.dtype} "
            f"{list(tensor.shape)} with strides {tensor.stride()} on {tensor.device}; "
            "convert the tensor first"
        )
    return tensor.data_ptr()


def check_struct_sizes(**structures: type[ctypes.Structure]) -> None:
    """Compare the sizes of structures with those of the kernel.

    Args:
        structures: our structures by the names in layout.h.

    Raises:
        BuildError: one of them has another size.
    """
    sizes = (ctypes.c_int64 * len(_STRUCT_NAMES))()
    kernel_library().anytime_sizes(sizes)
    theirs = dict(zip(_STRUCT_NAMES, sizes, strict=True))
    for name, mirror in structures.items():
        if ctypes.sizeof(mirror) != theirs[name]:
            raise BuildError(
                f"{name} takes {theirs[name]} bytes in the kernel and {ctypes.sizeof(mirror)} "
                "here; install anytime-ar again"
            )


def check_status(status: int) -> None:
    """Raise what a call of the kernel failed with, but for `UNKNOWN_CODE`.

    Args:
        status: that the call returned.

    Raises:
        MemoryError: there was no room for its working memory.
    """
    if status == _OUT_OF_MEMORY:
        raise MemoryError("the kernel found no room for its working memory; ask for fewer at once")
