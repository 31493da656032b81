"""What a caller's samples must look like: finite float32 [B, *sample_shape] in [-1, 1].

Nothing that is computed from NaN or infinity is right, and codes do not show it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anytime_ar.errors import InputError


def as_samples(x: Any) -> Tensor:
    """Return samples as float32, whatever floating-point format and library they come in.

    Args:
        x: a tensor, an array of numpy, or what `numpy.asarray` makes one of.

    Raises:
        InputError: these are no floating-point numbers.
    """
    hint = "pass floating-point numbers in [-1, 1]"
    if isinstance(x, Tensor):
        if not x.is_floating_point():
            raise InputError(f"samples are {x.dtype}; {hint}")
        return x.to(torch.float32)
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise InputError(f"samples are no array ({error}); {hint}") from error
    if array.dtype.kind != "f":
        raise InputError(f"samples are {array.dtype}; {hint}")
    # A copy: arrays may be read-only, in another byte order, or reversed.
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def check_samples(x: Tensor, sample_shape: tuple[int, ...]) -> None:
    """Refuse samples that a model of this shape cannot encode.

    Raises:
        InputError: wrong type or shape, or a number that is not finite; the first one is named.
    """
    if tuple(x.shape[1:]) != sample_shape or x.dtype != torch.float32:
        raise InputError(
            f"cannot encode a {x.dtype} tensor of shape {tuple(x.shape)}; "
            f"pass float32 [B, {', '.join(map(str, sample_shape))}]"
        )
    finite = x.isfinite()
    if not finite.all():
        place = tuple((~finite).nonzero()[0].tolist())
        raise InputError(
            f"cannot encode {float(x[place])} at {list(place)}; replace what is not finite first"
        )
