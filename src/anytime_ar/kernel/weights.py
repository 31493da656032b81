"""Weights in the order in which the kernel reads them."""

from __future__ import annotations

import ctypes
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

_PANEL = 32
"""Outputs of a linear map whose weights lie together."""
_GROUP = {"float32": 1, "bfloat16": 2, "int8": 4}
"""Inputs whose weights lie together."""


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
    """

    def __init__(self, precision: Literal["float32", "bfloat16", "int8"]) -> None:
        self.precision = precision
        self._held: list[Tensor] = []

    def hold(self, tensor: Tensor) -> int:
        """The address of a tensor's numbers, which stay there as long as this object does."""
        tensor = tensor.detach().contiguous()
        self._held.append(tensor)
        return tensor.data_ptr()

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> LinearMap:
        """A linear map [out, in] in panels [out / 32][in / g][32][g], filled up with zeros."""
        outputs, inputs = weight.shape
        more = pad_up(outputs, _PANEL) - outputs
        scale = sums = None
        if self.precision == "int8":
            unit = weight.abs().amax(1).clamp_min(1e-12) / 127
            weight = (weight / unit[:, None]).round()
            sums = self.hold(F.pad(weight.sum(1), (0, more)).to(torch.int32))
            scale = self.hold(F.pad(unit, (0, more)))
        group = _GROUP[self.precision]
        padded = inputs if group == 1 else pad_up(inputs, 4)
        panels = F.pad(weight, (0, padded - inputs, 0, more))
        panels = panels.unflatten(0, (-1, _PANEL)).unflatten(2, (-1, group)).transpose(1, 2)
        bias = weight.new_zeros(outputs) if bias is None else bias
        return LinearMap(
            weight=self.hold(panels.to(getattr(torch, self.precision))),
            bias=self.hold(F.pad(bias, (0, more))),
            scale=scale,
            sums=sums,
            inputs=inputs,
            outputs=outputs,
        )


def pad_up(count: int, whole: int) -> int:
    """`count` rounded up to a multiple of `whole`."""
    return -(-count // whole) * whole
