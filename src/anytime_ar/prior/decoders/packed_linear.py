"""Linear maps of the PyTorch decoder: weights packed once, for products with few rows.

`nn.Linear` reads its weights in the order of training. A step of decoding multiplies a few rows by
every weight of the model, so reading weights takes most of its time. oneDNN reads weights in its
own blocked order up to three times as fast.

The result for a row does not depend on the number of rows, to the last bit. So a sample does not
depend on its batch. Products of very few rows take other paths, which round differently, so small
batches are padded.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.errors import InputError
from anytime_ar.prior.decoders.base import Precision

_PACKED_FOR_ROWS = 16
"""Number of rows that oneDNN orders weights for. For 1 it takes another product for a single
row, which rounds differently."""
_MAX_UNSPLIT_SUM = 1024
"""Number of inputs above which oneDNN splits the sums of a single row."""


class Linear(Protocol):
    """A linear map x W^T + b, with GELU if built so: [B, in] -> [B, out], both of `dtype`."""

    dtype: torch.dtype
    """Number format of inputs and outputs."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the linear map: [B, in] -> [B, out]."""
        ...


def pack_linear(
    weight: Tensor, bias: Tensor | None, precision: Precision, *, gelu: bool = False
) -> Linear:
    """Pack a copy of the weights for the fastest linear map of a device and precision.

    Args:
        weight: float32 [out, in], on the device to decode on.
        bias: float32 [out]; None: no bias.
        precision: number format to round both to.
        gelu: whether GELU is applied to the result.

    Raises:
        InputError: the device does not multiply in that precision.
    """
    if precision == "int8":
        if weight.device.type != "cpu":
            raise InputError(f"precision int8 is for CPUs, not {weight.device}; pass bfloat16")
        return _Int8Linear(weight.detach(), None if bias is None else bias.detach().clone(), gelu)
    dtype = getattr(torch, precision)
    bias = None if bias is None else bias.detach().to(dtype, copy=True)
    fast = _has_onednn(dtype) and weight.device.type == "cpu"
    weight = weight.detach().to(dtype, copy=not fast)  # oneDNN copies them itself
    return (_PackedLinear if fast else _PlainLinear)(weight, bias, gelu)


def _has_onednn(dtype: torch.dtype) -> bool:
    """Return whether this build of PyTorch has oneDNN's products for a number format."""
    operators = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and all(
            hasattr(operators, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
        )
        and (dtype != torch.bfloat16 or operators._is_mkldnn_bf16_supported())
    )


class _PackedLinear:
    """A linear map by oneDNN, with weights in its own order."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool) -> None:
        self.dtype = weight.dtype
        # oneDNN splits longer sums of a single row, which changes their rounding.
        self._min_rows = 2 if weight.shape[1] > _MAX_UNSPLIT_SUM else 1
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR_ROWS)
        self._bias = bias
        self._after = "gelu" if gelu else "none"
        self._run = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) < self._min_rows:
            return self(_pad_rows(x, self._min_rows))[: len(x)]
        result: Tensor = self._run(x, self._weight, self._bias, self._after, [], "none")
        return result


class _PlainLinear:
    """A linear map by PyTorch's own product, for devices and builds without oneDNN.

    On a CPU with several threads its rounding may depend on the number of rows.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool) -> None:
        self.dtype = weight.dtype
        # BLAS multiplies fewer than four rows by other kernels.
        self._min_rows = 4 if weight.device.type == "cpu" else 1
        self._weight, self._bias, self._gelu = weight, bias, gelu

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) < self._min_rows:
            return self(_pad_rows(x, self._min_rows))[: len(x)]
        result = F.linear(x, self._weight, self._bias)
        return F.gelu(result) if self._gelu else result


class _Int8Linear:
    """A linear map by integer products, which are exact and so depend on nothing but the row."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool) -> None:
        self.dtype = torch.float32
        integers, scale = _to_int8(weight)
        self._dtype = torch.int8 if _has_exact_int_mm() else torch.float64
        self._weight, self._scale = integers.to(self._dtype).t(), scale[:, 0]  # [in, out], [out]
        self._bias, self._gelu = bias, gelu

    def __call__(self, x: Tensor) -> Tensor:
        integers, scale = _to_int8(x)
        if self._dtype == torch.int8:
            sums = torch._int_mm(integers, self._weight)
        else:  # float64 holds these sums exactly
            sums = integers.to(self._dtype) @ self._weight
        result = sums.float().mul_(scale).mul_(self._scale)
        if self._bias is not None:
            result.add_(self._bias)
        return F.gelu(result) if self._gelu else result


@cache
def _has_exact_int_mm() -> bool:
    """Return whether PyTorch's integer product is exact on this machine.

    Where oneDNN multiplies int8 without VNNI, it adds pairs of products in 16 bits, which saturate.
    """
    x = torch.full((32, 64), 127, dtype=torch.int8, device="cpu")
    return all(
        bool((torch._int_mm(x, torch.full_like(x.t(), value)) == 64 * 127 * value).all())
        for value in (127, -127)
    )


def _to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize rows to int8 with one scale each: [B, in] -> int8 [B, in], float32 [B, 1]."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min_(1e-12).div_(127)
    return (x / scale).round_().to(torch.int8), scale


def _pad_rows(x: Tensor, min_rows: int) -> Tensor:
    """Repeat the first row until there are `min_rows` rows."""
    return torch.cat([x, x[:1].expand(min_rows - len(x), -1)])
