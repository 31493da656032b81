"""Quantization of the code vectors of segments: one codebook a level, for all segments.

What describes one segment describes any other, so they share the codebooks as they share the maps
of the layout, and a level sees as many vectors as there are segments. Errors are fed forward within
a segment.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.autoencoder.quantizers.base import Exchange, Quantized, Quantizer
from anytime_ar.autoencoder.quantizers.config import QuantizerConfig
from anytime_ar.autoencoder.quantizers.vector import VectorQuantizer


class SegmentQuantizer(Quantizer):
    """For vectors in the order of `SegmentLayout`: G of the whole, then, level by level, one of
    each segment.

    Args:
        config: of both parts.
        whole: G, each with a codebook of its own; 0: none.
        levels: M, codebooks that the segments share; L = G + M * S.
        segments: S.
        code_width: D.
        residual: of each segment, each code is there for what the one before it left.
    """

    def __init__(
        self,
        config: QuantizerConfig,
        whole: int,
        levels: int,
        segments: int,
        code_width: int,
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.whole_codes, self.levels, self.segments = whole, levels, segments
        self.whole = VectorQuantizer(config, whole, code_width) if whole else None
        self.local = VectorQuantizer(config, levels, code_width, residual=residual)

    def forward(self, vectors: Tensor, kept: Tensor) -> Quantized:
        whole, local = self._split(vectors)
        whole_kept, local_kept = self._split(kept)
        found = self.local(local, local_kept)
        if self.whole is None:
            return Quantized(self._in_order(found.vectors), self._in_order(found.codes), found.loss)
        first = self.whole(whole, whole_kept)
        share = whole_kept.sum() / kept.sum()  # every kept code weighs the same
        return Quantized(
            torch.cat([first.vectors, self._in_order(found.vectors)], dim=1),
            torch.cat([first.codes, self._in_order(found.codes)], dim=1),
            share * first.loss + (1 - share) * found.loss,
        )

    def learn(self, generator: torch.Generator, exchange: Exchange) -> None:
        self.local.learn(generator, exchange)
        if self.whole is not None:
            self.whole.learn(generator, exchange)

    def encode(self, vectors: Tensor) -> Tensor:
        whole, local = self._split(vectors)
        codes = self._in_order(self.local.encode(local))
        return codes if self.whole is None else torch.cat([self.whole.encode(whole), codes], dim=1)

    def lookup(self, codes: Tensor) -> Tensor:
        whole, local = codes[:, : self.whole_codes], codes[:, self.whole_codes :]
        found = [] if self.whole is None else [self.whole.lookup(whole)]
        if count := local.shape[1]:
            local = F.pad(local, (0, -count % self.segments))  # the last level may be unfinished
            rows = self._by_segment(local)
            found.append(self._in_order(self.local.lookup(rows))[:, :count])
        return torch.cat(found, dim=1)

    def start(self, vectors: Tensor, generator: torch.Generator) -> None:
        whole, local = self._split(vectors)
        if self.whole is not None:
            self.whole.start(whole, generator)
        chosen = torch.randperm(len(local), generator=generator)[: len(vectors)]
        self.local.start(local[chosen.to(local.device)], generator)  # as many as there are samples

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, ...] -> [B, G, ...] and [B * S, M, ...]."""
        whole, local = values[:, : self.whole_codes], values[:, self.whole_codes :]
        return whole, self._by_segment(local)

    def _by_segment(self, values: Tensor) -> Tensor:
        """[B, m * S, ...] -> [B * S, m, ...]."""
        return values.unflatten(1, (-1, self.segments)).transpose(1, 2).flatten(0, 1)

    def _in_order(self, values: Tensor) -> Tensor:
        """[B * S, m, ...] -> [B, m * S, ...], the inverse of `_by_segment`."""
        return values.unflatten(0, (-1, self.segments)).transpose(1, 2).flatten(1, 2)
