"""Which decode path draws from a prior on this machine."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from anytime_ar.errors import InputError
from anytime_ar.prior.decoder import Decoder, Precision
from anytime_ar.prior.native import NativeDecoder, refusal
from anytime_ar.prior.portable import PortableDecoder
from anytime_ar.prior.transformer import Prior

Backend = Literal["auto", "native", "portable"]
"""`native` is our own kernel, for CPUs with a C++ compiler; `portable` are PyTorch's operations;
`auto` the first where it can be had. They round differently, so now and then a code differs."""


def decoder_for(
    prior: Prior, precision: Precision = "float32", backend: Backend = "auto"
) -> Decoder[Any]:
    """Lay a prior out for drawing.

    Args:
        prior: in evaluation mode, on the device to draw on.
        precision: what weights and inputs of matrix products are rounded to.
        backend: see `Backend`.

    Raises:
        InputError: the backend cannot be had here, or does not know the precision.
    """
    reason = "it was not asked for" if backend == "portable" else refusal(prior)
    if reason is None:
        return NativeDecoder(prior, precision)
    if backend == "native":
        raise InputError(f"backend native cannot draw here: {reason}; pass auto or portable")
    if backend == "auto" and prior.entries.weight.device.type == "cpu":
        warnings.warn(
            f"drawing without the native kernel, several times slower in small batches: {reason}",
            stacklevel=2,
        )
    return PortableDecoder(prior, precision)
