"""`load`: a model by its name."""

from __future__ import annotations

from pathlib import Path

import torch

from anytime_ar.bundle import find_bundle, load_bundle
from anytime_ar.prior import Backend, PrecisionOption
from anytime_ar.sampling.model import AnytimeModel


def load(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    precision: PrecisionOption = "float32",
    backend: Backend = "auto",
) -> AnytimeModel:
    """Load a model: a shipped bundle (`"mnist"`), a folder, or a Hub id (`"owner/name"`).

    Args:
        name: see above.
        device: `cpu`, `cuda`, `mps`, or `auto` for the best there is.
        precision: what weights are rounded to while drawing: `float32`, or, mostly faster,
            `bfloat16` and `int8`; `auto` for the fastest one here. Another precision draws other
            samples.
        backend: `native`, our own kernel for CPUs; `portable`, PyTorch's operations; or `auto` for
            the faster one here. What `auto` chooses is timed once, and kept in the cache folder.

    Raises:
        BundleError: nothing is found under that name, or what is found is refused.
    """
    return AnytimeModel(
        load_bundle(find_bundle(name)), device=device, precision=precision, backend=backend
    )
