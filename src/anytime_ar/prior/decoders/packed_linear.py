"""Linear maps of the portable decode path: weights laid out once, for products with few rows.

`nn.Linear` reads its weights in the order in which training left them. One step of a draw
multiplies a handful of rows by every weight of the model, so reading them is most of its time, and
oneDNN reads weights in its own blocked order up to three times as fast.

The result for a row does not depend on how many rows there are, to the last bit: that is what makes
a sample independent of the batch that it was drawn in. Products take other paths for very few rows,
which round differently, so fewer are filled up.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.errors import InputError
from anytime_ar.prior.decoders.base import Precision

_PACKED_FOR_ROWS = 16
"""oneDNN picks the order of weights for a number of rows. With 1 in mind it takes another product
for that one row, which rounds differently."""
_MAX_UNSPLIT_SUM = 1024


class Linear(Protocol):
    """x W^T + b, with GELU where it was built so: [B, in] -> [B, out], both of `dtype`."""

    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor: ...


def pack_linear(
    weight: Tensor, bias: Tensor | None, precision: Precision, *, gelu: bool = False
) -> Linear:
    """The fastest linear map that there is for a device and precision.

    Args:
        weight: float32 [out, in], on the device to draw on.
        bias: float32 [out].
        precision: what to round both to.
        gelu: whether GELU is applied to the result.

    Raises:
        InputError: the device does not multiply in that precision.
    """
    if precision == "int8":
        if weight.device.type != "cpu":
            raise InputError(f"precision int8 is for CPUs, not {weight.device}; pass bfloat16")
        return _Int8Linear(weight.detach(), None if bias is None else bias.detach(), gelu)
    dtype = getattr(torch, precision)
    weight = weight.detach().to(dtype)
    bias = None if bias is None else bias.detach().to(dtype)
    fast = _has_onednn(dtype) and weight.device.type == "cpu"
    return (_PackedLinear if fast else _PlainLinear)(weight, bias, gelu)


def _has_onednn(dtype: torch.dtype) -> bool:
    operators = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and all(
            hasattr(operators, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
        )
        and (dtype != torch.bfloat16 or operators._is_mkldnn_bf16_supported())
    )


class _PackedLinear:
    """oneDNN on weights in its own order."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool) -> None:
        self.dtype = weight.dtype
        # Longer sums of a single row are split.
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
    """PyTorch's own product, for devices and builds without oneDNN. On a CPU with several threads
    it may round by the number of rows after all."""

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
    """Integer products, which are exact and so depend on nothing beside the row."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool) -> None:
        self.dtype = torch.float32
        integers, scale = _to_int8(weight)
        self._weight, self._scale = integers.t(), scale[:, 0]  # [in, out], [out]
        self._bias, self._gelu = bias, gelu

    def __call__(self, x: Tensor) -> Tensor:
        integers, scale = _to_int8(x)
        result = torch._int_mm(integers, self._weight).float().mul_(scale).mul_(self._scale)
        if self._bias is not None:
            result.add_(self._bias)
        return F.gelu(result) if self._gelu else result


def _to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """x as int8 times a scale for each row: [B, in] -> [B, in], [B, 1]."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min_(1e-12).div_(127)
    return (x / scale).round_().to(torch.int8), scale


def _pad_rows(x: Tensor, min_rows: int) -> Tensor:
    """Repeat the first row until there are `min_rows`."""
    return torch.cat([x, x[:1].expand(min_rows - len(x), -1)])
