"""Decoders of the prior: PyTorch operations and the native kernel, and the choice between them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

from anytime_ar.codes import vocabulary_sizes
from anytime_ar.errors import InputError
from anytime_ar.kernel.autotune import Autotuner, Implementation
from anytime_ar.prior.causal import CausalPrior
from anytime_ar.prior.decoders.base import Precision, PriorDecoder
from anytime_ar.prior.decoders.causal import CausalPriorDecoder
from anytime_ar.prior.decoders.native import NativePriorDecoder, unsupported_reason
from anytime_ar.prior.decoders.torch import TorchPriorDecoder
from anytime_ar.prior.sampling_params import RowSamplingParams, SamplingParams
from anytime_ar.prior.transformer import Prior

Backend = Literal["auto", "native", "portable"]
"""`native` is the C++ kernel, for CPUs; `portable` is PyTorch; `auto` is the faster one on this
machine, as timed at the first use. They round differently, so a code differs now and then."""
PrecisionOption = Precision | Literal["auto"]
"""A precision, or `auto` for the fastest one on this machine, as timed at the first use."""


def check_decoder_options(precision: str, backend: str) -> None:
    """Refuse unknown names of precisions and backends.

    Args:
        precision: see `PrecisionOption`.
        backend: see `Backend`.

    Raises:
        InputError: one of the names is unknown.
    """
    for name, value, known in (
        ("precision", precision, (*get_args(Precision), "auto")),
        ("backend", backend, get_args(Backend)),
    ):
        if value not in known:
            raise InputError(f"{name}={value!r} is unknown; pass one of {', '.join(known)}")


def make_prior_decoder(
    prior: Prior | CausalPrior,
    precision: PrecisionOption = "float32",
    backend: Backend = "auto",
    autotuner: Autotuner | None = None,
) -> PriorDecoder[Any]:
    """Build the decoder of a prior for this machine.

    Args:
        prior: in evaluation mode, on the device to decode on.
        precision: number format of weights and of inputs of matrix products.
        backend: see `Backend`.
        autotuner: stores the results of timing; None: in the cache folder.

    Raises:
        InputError: the backend is not available here, or does not support the precision.
    """
    if isinstance(prior, CausalPrior):
        if backend == "native":
            raise InputError(
                f"backend native draws from our own prior only, not from a {type(prior).__name__}; "
                "pass auto or portable"
            )
        if precision not in ("float32", "auto"):
            raise InputError(
                f"precision {precision!r} is for our own prior; convert the {type(prior).__name__} "
                "itself, and pass float32 or auto"
            )
        return CausalPriorDecoder(prior)
    device = prior.device
    reason = "it was not asked for" if backend == "portable" else unsupported_reason(prior)
    if backend == "native" and reason is not None:
        raise InputError(f"backend native cannot draw here: {reason}; pass auto or portable")
    if backend == "auto" and reason is not None and device.type == "cpu":
        warnings.warn(
            f"drawing without the native kernel, several times slower in small batches: {reason}",
            stacklevel=2,
        )
    precisions = (precision,) if precision != "auto" else get_args(Precision)
    if precision == "auto" and device.type != "cpu":
        precisions = ("float32", "bfloat16")  # int8 is for CPUs
    builders: dict[str, Callable[[], PriorDecoder[Any]]] = {}
    for each in precisions:
        if reason is None:
            builders[f"native {each}"] = partial(NativePriorDecoder, prior, each)
        if reason is not None or backend == "auto":
            builders[f"portable {each}"] = partial(TorchPriorDecoder, prior, each)
    size = prior.config.model_dump_json(include={"layers", "width", "heads", "mlp_ratio"})
    timed = vocabulary_sizes(prior.vocabulary, prior.code_length)[prior.code_length // 2]
    key = f"step of {size} {prior.code_length} x {timed} on {device}"
    candidates = [
        Implementation(name, partial(_prepare_step, make)) for name, make in builders.items()
    ]
    return builders[(autotuner or Autotuner()).fastest(key, candidates)]()


def _prepare_step(make: Callable[[], PriorDecoder[Any]]) -> Callable[[int], object]:
    """Return a function that samples one code in mid-sequence, for a number of rows."""
    decoder, slots = make(), dict[int, Any]()

    def run(rows: int) -> None:
        if rows not in slots:
            slots[rows] = decoder.allocate(rows)
            for row in range(rows):
                slots[rows].sampling_params[row] = RowSamplingParams.of(SamplingParams())
        slots[rows].positions[:rows] = [decoder.code_length // 2] * rows
        decoder.step(slots[rows], rows)
        slots[rows].codes[:rows].sum().item()  # waits for the device

    return run
