"""Finite scalar quantization (Mentzer et al., ICLR 2024) on a fixed grid of values.

No codebook is learned, so there are no dead entries; the vocabulary is the product of the levels.
The encoder can still fail. In the first steps, all of the decoder's gradient has one direction,
towards the mean sample. It drives vectors to where the bound is flat, and no gradient brings them
back. So a loss penalises vectors far beyond the outermost level.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anytime_ar.autoencoder.quantizers.base import Quantized, Quantizer, all_kept
from anytime_ar.runtime.torch_modes import default_torch_modes

SATURATION_MARGIN = 1.0
"""Distance beyond the outermost level without a penalty; the bound is flat further out."""
_MARGIN = 1e-3
"""Relative widening of the bound, without which the outermost values round one level too far."""


class FiniteScalarQuantizer(Quantizer):
    """Quantizer with a fixed grid of `levels[d]` values in dimension d.

    Args:
        levels: number of values of each of the D dimensions, each >= 3.
        commitment: weight of the squared distance by which vectors lie more than
            `SATURATION_MARGIN` beyond the start of the outermost levels.
    """

    levels: Tensor
    """Number of values of each dimension, int64 [D]."""
    strides: Tensor
    """Factor of each dimension's digit in a code, int64 [D]."""
    scale: Tensor
    """Half the width of the bound of each dimension, float32 [D]."""
    offset: Tensor
    """Offset that centres an even number of levels, float32 [D]."""
    shift: Tensor
    """Shift before the bound that maps 0 to 0, float32 [D]."""
    saturation: Tensor
    """Distance from which the penalty starts, float32 [D]."""

    @default_torch_modes(grad=True, keep_device=True)
    def __init__(self, levels: tuple[int, ...], commitment: float) -> None:
        """Compute the constants of the grid."""
        super().__init__()
        self.commitment = commitment
        counts = torch.tensor(levels)
        # Integers combined with Python floats would become the default dtype, whatever it is.
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
        """Bound each dimension so that rounding gives exactly `levels[d]` integers."""
        return torch.tanh(vectors.float() + self.shift) * self.scale - self.offset

    def _codes(self, bounded: Tensor) -> Tensor:
        """Return the codes of bounded vectors: [B, L, D] -> int64 [B, L]."""
        digits = bounded.round().long() + self.levels // 2  # each in 0..levels[d]-1
        return (digits * self.strides).sum(-1)

    def forward(self, vectors: Tensor, kept_mask: Tensor | None = None) -> Quantized:
        """Round the vectors to the grid, with a straight-through gradient and the penalty."""
        bounded = self._bound(vectors)
        rounded = bounded + (bounded.round() - bounded).detach()  # straight-through
        kept_mask = all_kept(vectors) if kept_mask is None else kept_mask
        beyond = ((vectors.float() + self.shift).abs() - self.saturation).clamp(min=0)
        loss = self.commitment * (beyond.square().mean(-1) * kept_mask).sum() / kept_mask.sum()
        return Quantized(rounded / (self.levels // 2), self._codes(bounded), loss)

    def encode(self, vectors: Tensor) -> Tensor:
        """Return the codes of the nearest grid points."""
        return self._codes(self._bound(vectors))

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the grid points of codes, each dimension in [-1, 1]."""
        digits = codes[..., None] // self.strides % self.levels  # [B, k, D]
        half = self.levels // 2
        return (digits - half).float() / half
