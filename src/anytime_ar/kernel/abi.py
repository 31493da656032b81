"""Conversion of tensors for the kernel, and checks of what it assumes."""

from __future__ import annotations

import ctypes
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.errors import InputError
from anytime_ar.kernel.build import BuildError
from anytime_ar.kernel.loading import kernel_library
from anytime_ar.runtime.tensors import BoundToProcess

_STRUCT_NAMES = (
    "Linear",
    "Norm",
    "Block",
    "Prior",
    "RowSamplingParams",
    "DecodeState",
    "ResidualBlock",
    "Stage",
    "ImageDecoder",
)
"""Names of the structs of abi.h, in the order of `anytime_struct_sizes`."""
_OUT_OF_MEMORY, UNKNOWN_CODE = 1, 2
"""Values of the enum `Status` of abi.h that report a failure."""


def checked_data_ptr(tensor: Tensor, dtype: torch.dtype, *shape: int) -> int:
    """Return the address of a tensor's numbers, after checking what the kernel assumes of them.

    Args:
        tensor: contiguous, on the CPU; it must live as long as the kernel uses the address.
        dtype: number format that the kernel assumes.
        shape: shape that the kernel assumes.

    Raises:
        InputError: the tensor has another format, shape, memory layout or device.
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
    """Compare the sizes of ctypes structures with those of the kernel's structs.

    Args:
        structures: ctypes structures by their names in abi.h.

    Raises:
        BuildError: a structure has another size than its struct.
    """
    sizes = (ctypes.c_int64 * len(_STRUCT_NAMES))()
    kernel_library().anytime_struct_sizes(sizes)
    theirs = dict(zip(_STRUCT_NAMES, sizes, strict=True))
    for name, mirror in structures.items():
        if ctypes.sizeof(mirror) != theirs[name]:
            raise BuildError(
                f"{name} takes {theirs[name]} bytes in the kernel and {ctypes.sizeof(mirror)} "
                "here; install anytime-ar again"
            )


def check_status(status: int) -> None:
    """Raise the error that a call of the kernel reports, except for `UNKNOWN_CODE`.

    Args:
        status: the return value of the call.

    Raises:
        MemoryError: there was no room for the kernel's working memory.
    """
    if status == _OUT_OF_MEMORY:
        raise MemoryError("the kernel found no room for its working memory; ask for fewer at once")


class LinearMap(ctypes.Structure):
    """The struct `Linear` of abi.h: a linear map."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    )


class PackedWeights(BoundToProcess):
    """Tensors in the memory layout of the kernel, which live as long as this object.

    They are copies: sharing a model with other processes moves the memory of its own tensors.

    Args:
        precision: number format of the weights of linear maps.

    Raises:
        BuildError: there is no kernel on this machine.
    """

    def __init__(self, precision: Literal["float32", "bfloat16", "int8"]) -> None:
        """Ask the kernel for its memory layout of weights."""
        self.precision = precision
        layout = (ctypes.c_int64 * 3)()
        kernel_library().anytime_packing(layout)
        self._panel, *groups = layout  # outputs of a panel, inputs of a group
        self._group = dict(zip(("float32", "bfloat16", "int8"), (1, *groups), strict=True))[
            precision
        ]
        self._tensors: list[Tensor] = []

    def keep_alive(self, tensor: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> int:
        """Copy a tensor, and return the copy's address, valid as long as this object lives.

        Args:
            tensor: on the CPU.
            shape: shape that the kernel assumes.
            dtype: number format that the kernel assumes; other formats are converted to it.

        Raises:
            InputError: the tensor has another shape or device.
        """
        tensor = tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
        self._tensors.append(tensor)
        return checked_data_ptr(tensor, dtype, *shape)

    def pack_linear(self, weight: Tensor, bias: Tensor | None = None) -> LinearMap:
        """Pack a linear map in panels [out / P][in / g][P][g], padded with zeros.

        Args:
            weight: float [out, in].
            bias: float [out]; None: zeros.

        Returns:
            The struct of the kernel.
        """
        outputs, inputs = weight.shape
        whole = round_up(outputs, self._panel)
        more = whole - outputs
        weight = weight.detach().float()
        scale = sums = None
        if self.precision == "int8":
            unit = weight.abs().amax(1).clamp_min(1e-12) / 127
            weight = (weight / unit[:, None]).round()
            sums = self.keep_alive(F.pad(weight.sum(1), (0, more)), whole, dtype=torch.int32)
            scale = self.keep_alive(F.pad(unit, (0, more)), whole)
        panels = F.pad(weight, (0, round_up(inputs, self._group) - inputs, 0, more))
        panels = panels.unflatten(0, (-1, self._panel)).unflatten(2, (-1, self._group))
        panels = panels.transpose(1, 2)  # [out / P, in / g, P, g]
        bias = weight.new_zeros(outputs) if bias is None else bias
        return LinearMap(
            weight=self.keep_alive(panels, *panels.shape, dtype=getattr(torch, self.precision)),
            bias=self.keep_alive(F.pad(bias, (0, more)), whole),
            scale=scale,
            sums=sums,
            inputs=inputs,
            outputs=outputs,
        )


def round_up(count: int, multiple: int) -> int:
    """Return `count` rounded up to a multiple of `multiple`."""
    return -(-count // multiple) * multiple
