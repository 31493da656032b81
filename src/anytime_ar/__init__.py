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
    from anytime_ar.publishing import push
    from anytime_ar.sampling import AnytimeModel, Preview, load

__all__ = ["AnytimeModel", "Preview", "load", "push"]


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that `import anytime_ar` does not wait for torch.

    Raises:
        AttributeError: the name is not public.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    part = "publishing" if name == "push" else "sampling"
    return getattr(import_module(f"anytime_ar.{part}"), name)


def __dir__() -> list[str]:
    """Return the names of the module, with the public names that are not imported yet."""
    return sorted([*globals(), *__all__])
