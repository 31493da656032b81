"""Weights in the order in which the kernel reads them."""

from __future__ import annotations

import ctypes
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.kernel.loading import kernel_library
from anytime_ar.kernel.memory import checked_data_ptr


class LinearMap(ctypes.Structure):
    """`Linear` of the kernel."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    )


class PackedWeights:
    """Lays tensors out for the kernel, and keeps what it reads.

    Args:
        precision: what weights of linear maps are rounded to.

    Raises:
        BuildError: there is no kernel on this machine.
    """

    def __init__(self, precision: Literal["float32", "bfloat16", "int8"]) -> None:
        self.precision = precision
        layout = (ctypes.c_int64 * 3)()
        kernel_library().anytime_layout(layout)
        self._panel, *groups = layout  # outputs, and inputs, whose weights lie together
        self._group = dict(zip(("float32", "bfloat16", "int8"), (1, *groups), strict=True))[
            precision
        ]
        self._tensors: list[Tensor] = []

    def keep_alive(self, tensor: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> int:
        """Return the address of a tensor's numbers, which stay there as long as this object does.

        Args:
            tensor: on the CPU.
            shape: that the kernel takes it for.
            dtype: likewise; numbers of another one are converted.

        Raises:
            InputError: the shape or the device is another one.
        """
        tensor = tensor.detach().to(dtype).contiguous()
        self._tensors.append(tensor)
        return checked_data_ptr(tensor, dtype, *shape)

    def pack_linear(self, weight: Tensor, bias: Tensor | None = None) -> LinearMap:
        """Lay out a linear map [out, in] in panels [out / P][in / g][P][g], padded with zeros."""
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
    """`count` rounded up to a multiple of `multiple`."""
    return -(-count // multiple) * multiple
