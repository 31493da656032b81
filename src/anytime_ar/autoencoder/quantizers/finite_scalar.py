"""Finite scalar quantization (Mentzer et al., ICLR 2024): each dimension is rounded to a few
levels.

No codebook is learned, so there is nothing to collapse; the vocabulary is the product of the
levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anytime_ar.autoencoder.quantizers.base import Quantized, Quantizer


class FiniteScalarQuantizer(Quantizer):
    """A fixed grid with `levels[d]` values in dimension d.

    Args:
        levels: number of values of each of the D dimensions, each >= 3.
    """

    levels: Tensor
    strides: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        strides = [math.prod(levels[:d]) for d in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("strides", torch.tensor(strides), persistent=False)

    def _bound(self, vectors: Tensor) -> Tensor:
        """Squash each dimension so that rounding gives exactly `levels[d]` integers."""
        margin = 1e-3  # keeps the outermost values from rounding one level too far
        half = (self.levels - 1) * (1 + margin) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)  # even counts have no middle value
        shift = torch.atanh(offset / half)
        return torch.tanh(vectors + shift) * half - offset

    def _digits(self, vectors: Tensor) -> Tensor:
        """Level of each dimension: float [..., D] -> int64 [..., D] in 0..levels[d]-1."""
        return self._bound(vectors).round().long() + self.levels // 2

    def forward(
        self,
        vectors: Tensor,
        kept: Tensor,  # noqa: ARG002
    ) -> Quantized:
        bounded = self._bound(vectors.float())
        rounded = bounded + (bounded.round() - bounded).detach()  # straight-through
        codes = self.encode(vectors)
        return Quantized(rounded / (self.levels // 2), codes, bounded.new_zeros(()))

    def encode(self, vectors: Tensor) -> Tensor:
        return (self._digits(vectors.float()) * self.strides).sum(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        digits = codes[..., None] // self.strides % self.levels  # [B, k, D]
        half = self.levels // 2
        return (digits - half) / half
