"""Sample from autoregressive models over ordered codes, stopping after any number of codes.

    import anytime_ar as aar

    model = aar.load("mnist")
    x = model.sample(16, codes=8, seed=0)   # float32 [16, 1, 28, 28] in [-1, 1]
    for preview in model.stream(4):         # preview.codes_drawn, preview.data, preview.elapsed_s
        ...
    codes = model.encode(x)                 # int64 [16, L], coarse to fine
    x_hat = model.decode(codes[:, :8])      # any prefix

The method is that of Xu et al., *Anytime Sampling for Autoregressive Models via Ordered
Autoencoding*, ICLR 2021.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anytime_ar.autoencoder import OrderedAutoencoder, Tokenizer, Truncation, truncate
    from anytime_ar.bundle import shipped_models
    from anytime_ar.errors import (
        AnytimeError,
        BrokenSampleError,
        BulkError,
        BundleError,
        DataError,
        InputError,
        MissingExtraError,
        TrainingError,
    )
    from anytime_ar.evaluation import evaluate
    from anytime_ar.plugins import register
    from anytime_ar.prior import CausalPrior, Prior
    from anytime_ar.publishing import push
    from anytime_ar.sampling import (
        AnytimeModel,
        Budget,
        Preview,
        SampleResult,
        SamplingParams,
        SamplingState,
        load,
    )
    from anytime_ar.training import train

__all__ = [
    "AnytimeError",
    "AnytimeModel",
    "BrokenSampleError",
    "Budget",
    "BulkError",
    "BundleError",
    "CausalPrior",
    "DataError",
    "InputError",
    "MissingExtraError",
    "OrderedAutoencoder",
    "Preview",
    "Prior",
    "SampleResult",
    "SamplingParams",
    "SamplingState",
    "Tokenizer",
    "TrainingError",
    "Truncation",
    "evaluate",
    "load",
    "push",
    "register",
    "shipped_models",
    "train",
    "truncate",
]

_PACKAGES = {
    "OrderedAutoencoder": "autoencoder",
    "Tokenizer": "autoencoder",
    "Truncation": "autoencoder",
    "truncate": "autoencoder",
    "shipped_models": "bundle",
    "evaluate": "evaluation",
    "CausalPrior": "prior",
    "Prior": "prior",
    "register": "plugins",
    "push": "publishing",
    "train": "training",
} | dict.fromkeys(
    (
        "AnytimeModel",
        "Budget",
        "Preview",
        "SampleResult",
        "SamplingParams",
        "SamplingState",
        "load",
    ),
    "sampling",
)


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that `import anytime_ar` does not wait for torch.

    Raises:
        AttributeError: the name is not public.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package = import_module(f"anytime_ar.{_PACKAGES.get(name, 'errors')}")
    value: object = getattr(package, name)
    return value


def __dir__() -> list[str]:
    """Return the names of the module, with the public names that are not imported yet."""
    return sorted([*globals(), *__all__])
