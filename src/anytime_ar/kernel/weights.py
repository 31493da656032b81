"""Weights in the order in which the kernel reads them."""

from __future__ import annotations

import ctypes
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.kernel.loading import kernel
from anytime_ar.kernel.memory import address


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


class Weights:
    """Lays tensors out for the kernel, and keeps what it reads.

    Args:
        precision: what weights of linear maps are rounded to.

    Raises:
        BuildError: there is no kernel on this machine.
    """

    def __init__(self, precision: Literal["float32", "bfloat16", "int8"]) -> None:
        self.precision = precision
        layout = (ctypes.c_int64 * 3)()
        kernel().anytime_layout(layout)
        self._panel, *groups = layout  # outputs, and inputs, whose weights lie together
        self._group = dict(zip(("float32", "bfloat16", "int8"), (1, *groups), strict=True))[
            precision
        ]
        self._held: list[Tensor] = []

    def hold(self, tensor: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> int:
        """Return the address of a tensor's numbers, which stay there as long as this object does.

        Args:
            tensor: on the CPU.
            shape: that the kernel takes it for.
            dtype: likewise; numbers of another one are converted.

        Raises:
            InputError: the shape or the device is another one.
        """
        tensor = tensor.detach().to(dtype).contiguous()
        self._held.append(tensor)
        return address(tensor, dtype, *shape)

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> LinearMap:
        """Lay out a linear map [out, in] in panels [out / P][in / g][P][g], padded with zeros."""
        outputs, inputs = weight.shape
        whole = pad_up(outputs, self._panel)
        more = whole - outputs
        weight = weight.detach().float()
        scale = sums = None
        if self.precision == "int8":
            unit = weight.abs().amax(1).clamp_min(1e-12) / 127
            weight = (weight / unit[:, None]).round()
            sums = self.hold(F.pad(weight.sum(1), (0, more)), whole, dtype=torch.int32)
            scale = self.hold(F.pad(unit, (0, more)), whole)
        panels = F.pad(weight, (0, pad_up(inputs, self._group) - inputs, 0, more))
        panels = panels.unflatten(0, (-1, self._panel)).unflatten(2, (-1, self._group))
        panels = panels.transpose(1, 2)  # [out / P, in / g, P, g]
        bias = weight.new_zeros(outputs) if bias is None else bias
        return LinearMap(
            weight=self.hold(panels, *panels.shape, dtype=getattr(torch, self.precision)),
            bias=self.hold(F.pad(bias, (0, more)), whole),
            scale=scale,
            sums=sums,
            inputs=inputs,
            outputs=outputs,
        )


def pad_up(count: int, whole: int) -> int:
    """`count` rounded up to a multiple of `whole`."""
    return -(-count // whole) * whole
