"""Quantization of the code vectors of segments: one codebook a level, for all segments.

What describes one segment describes any other, so they share the codebooks as they share the maps
of the layout, and a level sees as many vectors as there are segments. Errors are fed forward within
a segment.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.autoencoder.quantizers.base import Collectives, Quantized, Quantizer
from anytime_ar.autoencoder.quantizers.config import QuantizerConfig
from anytime_ar.autoencoder.quantizers.vector import VectorQuantizer


class LevelQuantizer(Quantizer):
    """For vectors in the order of `SegmentLayout`: G of the whole, then, level by level, one of
    each segment.

    Args:
        config: of both parts.
        num_global: G, each with a codebook of its own; 0: none.
        levels: M, codebooks that the segments share; L = G + M * S.
        segments: S.
        code_width: D.
        residual: of each segment, each code is there for what the one before it left.
    """

    def __init__(
        self,
        config: QuantizerConfig,
        num_global: int,
        levels: int,
        segments: int,
        code_width: int,
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.num_global, self.levels, self.segments = num_global, levels, segments
        self.global_quantizer = (
            VectorQuantizer(config, num_global, code_width) if num_global else None
        )
        self.level_quantizer = VectorQuantizer(config, levels, code_width, residual=residual)

    def forward(self, vectors: Tensor, kept_mask: Tensor) -> Quantized:
        whole, local = self._split(vectors)
        whole_kept, local_kept = self._split(kept_mask)
        found = self.level_quantizer(local, local_kept)
        if self.global_quantizer is None:
            return Quantized(self._by_level(found.vectors), self._by_level(found.codes), found.loss)
        first = self.global_quantizer(whole, whole_kept)
        share = whole_kept.sum() / kept_mask.sum()  # every kept code weighs the same
        return Quantized(
            torch.cat([first.vectors, self._by_level(found.vectors)], dim=1),
            torch.cat([first.codes, self._by_level(found.codes)], dim=1),
            share * first.loss + (1 - share) * found.loss,
        )

    def update_codebooks(self, generator: torch.Generator, collectives: Collectives) -> None:
        self.level_quantizer.update_codebooks(generator, collectives)
        if self.global_quantizer is not None:
            self.global_quantizer.update_codebooks(generator, collectives)

    def encode(self, vectors: Tensor) -> Tensor:
        whole, local = self._split(vectors)
        codes = self._by_level(self.level_quantizer.encode(local))
        return (
            codes
            if self.global_quantizer is None
            else torch.cat([self.global_quantizer.encode(whole), codes], dim=1)
        )

    def lookup(self, codes: Tensor) -> Tensor:
        whole, local = codes[:, : self.num_global], codes[:, self.num_global :]
        found = [] if self.global_quantizer is None else [self.global_quantizer.lookup(whole)]
        if count := local.shape[1]:
            local = F.pad(local, (0, -count % self.segments))  # the last level may be unfinished
            rows = self._by_segment(local)
            found.append(self._by_level(self.level_quantizer.lookup(rows))[:, :count])
        return torch.cat(found, dim=1)

    def init_codebooks(self, vectors: Tensor, generator: torch.Generator) -> None:
        whole, local = self._split(vectors)
        if self.global_quantizer is not None:
            self.global_quantizer.init_codebooks(whole, generator)
        chosen = torch.randperm(len(local), generator=generator)[: len(vectors)]
        self.level_quantizer.init_codebooks(
            local[chosen.to(local.device)], generator
        )  # as many as there are samples

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, ...] -> [B, G, ...] and [B * S, M, ...]."""
        whole, local = values[:, : self.num_global], values[:, self.num_global :]
        return whole, self._by_segment(local)

    def _by_segment(self, values: Tensor) -> Tensor:
        """[B, m * S, ...] -> [B * S, m, ...]."""
        return values.unflatten(1, (-1, self.segments)).transpose(1, 2).flatten(0, 1)

    def _by_level(self, values: Tensor) -> Tensor:
        """[B * S, m, ...] -> [B, m * S, ...], the inverse of `_by_segment`."""
        return values.unflatten(0, (-1, self.segments)).transpose(1, 2).flatten(1, 2)
