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

SATURATION_MARGIN = 1.0
"""How far is allowed: further out the bound is flat."""
_MARGIN = 1e-3
"""Keeps the outermost values from rounding one level too far."""


class FiniteScalarQuantizer(Quantizer):
    """A fixed grid with `levels[d]` values in dimension d.

    Args:
        levels: number of values of each of the D dimensions, each >= 3.
        commitment: weight of the squared distance by which vectors lie more than `SATURATION_MARGIN` from
            where the outermost levels begin.
    """

    levels: Tensor
    strides: Tensor
    scale: Tensor
    offset: Tensor
    shift: Tensor
    saturation: Tensor

    def __init__(self, levels: tuple[int, ...], commitment: float) -> None:
        super().__init__()
        self.commitment = commitment
        counts = torch.tensor(levels)
        # Whole numbers beside Python's floats would become the default dtype, whatever it is.
        half = (counts - 1).float() * (1 + _MARGIN) / 2
        offset = (counts % 2 == 0).float() / 2  # even counts have no middle value
        tables = {
            "levels": counts,
            "strides": torch.tensor([math.prod(levels[:d]) for d in range(len(levels))]),
            "scale": half,
            "offset": offset,
            "shift": torch.atanh(offset / half),
            "saturation": torch.atanh((counts.float() / 2 - 1) / half) + SATURATION_MARGIN,
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def _bound(self, vectors: Tensor) -> Tensor:
        """Squash each dimension so that rounding gives exactly `levels[d]` integers."""
        return torch.tanh(vectors.float() + self.shift) * self.scale - self.offset

    def _codes(self, bounded: Tensor) -> Tensor:
        digits = bounded.round().long() + self.levels // 2  # each in 0..levels[d]-1
        return (digits * self.strides).sum(-1)

    def forward(self, vectors: Tensor, kept_mask: Tensor) -> Quantized:
        bounded = self._bound(vectors)
        rounded = bounded + (bounded.round() - bounded).detach()  # straight-through
        beyond = ((vectors.float() + self.shift).abs() - self.saturation).clamp(min=0)
        loss = self.commitment * (beyond.square().mean(-1) * kept_mask).sum() / kept_mask.sum()
        return Quantized(rounded / (self.levels // 2), self._codes(bounded), loss)

    def encode(self, vectors: Tensor) -> Tensor:
        return self._codes(self._bound(vectors))

    def lookup(self, codes: Tensor) -> Tensor:
        digits = codes[..., None] // self.strides % self.levels  # [B, k, D]
        half = self.levels // 2
        return (digits - half).float() / half
