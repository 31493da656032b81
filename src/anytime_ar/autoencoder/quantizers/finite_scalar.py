"""Finite scalar quantization (Mentzer et al., ICLR 2024): each dimension is rounded to a few
levels.

No codebook is learned, so there are no entries that nobody uses; the vocabulary is the product of
the levels. What can go wrong is the encoder: in the first steps all of the decoder's gradient has
one direction, towards the mean sample, which drives vectors to where the bound is flat and nothing
brings them back. So vectors far beyond the outermost level cost something.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anytime_ar.autoencoder.quantizers.base import Quantized, Quantizer

BEYOND = 1.0
"""How far is allowed: further out the bound is flat."""
_MARGIN = 1e-3
"""Keeps the outermost values from rounding one level too far."""


class FiniteScalarQuantizer(Quantizer):
    """A fixed grid with `levels[d]` values in dimension d.

    Args:
        levels: number of values of each of the D dimensions, each >= 3.
        commitment: weight of the squared distance by which vectors lie more than `BEYOND` from
            where the outermost levels begin.
    """

    levels: Tensor
    strides: Tensor

    def __init__(self, levels: tuple[int, ...], commitment: float = 0.25) -> None:
        super().__init__()
        self.commitment = commitment
        strides = [math.prod(levels[:d]) for d in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("strides", torch.tensor(strides), persistent=False)

    @property
    def _half(self) -> Tensor:
        return (self.levels - 1) * (1 + _MARGIN) / 2

    @property
    def _offset(self) -> Tensor:
        """Even counts have no middle value."""
        return torch.where(self.levels % 2 == 0, 0.5, 0.0)

    def _centered(self, vectors: Tensor) -> Tensor:
        return vectors + torch.atanh(self._offset / self._half)

    def _bound(self, vectors: Tensor) -> Tensor:
        """Squash each dimension so that rounding gives exactly `levels[d]` integers."""
        return torch.tanh(self._centered(vectors)) * self._half - self._offset

    def _beyond(self, vectors: Tensor) -> Tensor:
        """By how much each dimension is further out than allowed."""
        outermost = torch.atanh((self.levels / 2 - 1) / self._half)
        return (self._centered(vectors).abs() - outermost - BEYOND).clamp(min=0)

    def _digits(self, vectors: Tensor) -> Tensor:
        """Level of each dimension: float [..., D] -> int64 [..., D] in 0..levels[d]-1."""
        return self._bound(vectors).round().long() + self.levels // 2

    def forward(self, vectors: Tensor, kept: Tensor) -> Quantized:
        bounded = self._bound(vectors.float())
        rounded = bounded + (bounded.round() - bounded).detach()  # straight-through
        codes = self.encode(vectors)
        squared = self._beyond(vectors.float()).square().mean(-1)
        loss = self.commitment * (squared * kept).sum() / kept.sum()
        return Quantized(rounded / (self.levels // 2), codes, loss)

    def encode(self, vectors: Tensor) -> Tensor:
        return (self._digits(vectors.float()) * self.strides).sum(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        digits = codes[..., None] // self.strides % self.levels  # [B, k, D]
        half = self.levels // 2
        return (digits - half) / half
