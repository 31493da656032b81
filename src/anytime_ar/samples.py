"""Check the samples that callers pass: finite float32 [B, *sample_shape] in [-1, 1].

Values that are not finite are refused, because no result computed from them is right and the codes
do not show it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.runtime.tensors import check_dense


def as_samples(x: Any) -> Tensor:
    """Return samples as float32, from any floating-point type and any array library.

    Args:
        x: a tensor, a NumPy array, or anything that `numpy.asarray` accepts.

    Raises:
        InputError: the values are not floating-point numbers.
    """
    hint = "pass floating-point numbers in [-1, 1]"
    if isinstance(x, Tensor):
        check_dense("samples", x)
        if not x.is_floating_point():
            raise InputError(f"samples are {x.dtype}; {hint}")
        return x.to(torch.float32)
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise InputError(f"samples are no array ({error}); {hint}") from error
    if array.dtype.kind != "f":
        raise InputError(f"samples are {array.dtype}; {hint}")
    # Copy: arrays may be read-only, in another byte order, or reversed.
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def check_samples(x: Tensor, sample_shape: tuple[int, ...]) -> None:
    """Check that a model of this sample shape can encode these samples.

    Args:
        x: float32 [B, *sample_shape].
        sample_shape: shape of one sample.

    Raises:
        InputError: type or shape is wrong, or a number is not finite; names the first one.
    """
    if tuple(x.shape[1:]) != sample_shape or x.dtype != torch.float32:
        raise InputError(
            f"cannot encode a {x.dtype} tensor of shape {tuple(x.shape)}; "
            f"pass float32 [B, {', '.join(map(str, sample_shape))}]"
        )
    finite = x.isfinite()
    if not finite.all():
        index = tuple((~finite).nonzero()[0].tolist())
        raise InputError(
            f"cannot encode {float(x[index])} at {list(index)}; replace what is not finite first"
        )
