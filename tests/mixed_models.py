"""A tokenizer and a prior whose positions have vocabularies of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anytime_ar.autoencoder import Tokenizer
from anytime_ar.plugins import register
from anytime_ar.prior import Prior, PriorConfig

SIZES = (40, 5, 5, 17, 3, 40)
L = len(SIZES)


@register("test_mixed")
class Mixed(Tokenizer):
    """Each of six pixels in grey levels of its own number."""

    def __init__(self, sizes: tuple[int, ...] = SIZES) -> None:
        super().__init__()
        self.code_length, self.vocabulary, self.sample_shape = L, sizes, (1, 2, 3)
        self.register_buffer("steps", torch.tensor(SIZES) - 1.0)

    def encode(self, x: Tensor) -> Tensor:
        return ((x.flatten(1) + 1) / 2 * self.steps).round().long()

    def decode(self, codes: Tensor) -> Tensor:
        x = torch.zeros(len(codes), L)
        x[:, : codes.shape[1]] = codes / self.steps[: codes.shape[1]] * 2 - 1
        return x.view(-1, *self.sample_shape)


def own_prior(labels: int = 0, **options: Any) -> Prior:
    """A prior of ours of which the codes before matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = Prior(PriorConfig(layers=2, width=16, heads=2, **options), L, SIZES, labels).eval()
        with torch.no_grad():
            for weight in prior.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
    return prior
