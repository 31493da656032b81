"""Quantization of the code vectors of segments, with one codebook for each level.

Segments share the codebooks as they share the maps of the layout. So a level has as many vectors to
learn from as there are segments. Error feedback stays within a segment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.autoencoder.quantizers.base import Quantized, Quantizer, all_kept
from anytime_ar.autoencoder.quantizers.vector import VectorQuantizer, kmeans

if TYPE_CHECKING:
    from anytime_ar.autoencoder.layouts import SegmentLayout
    from anytime_ar.autoencoder.quantizers.config import VectorQuantizerConfig
    from anytime_ar.runtime.distributed import DistributedContext


class LevelQuantizer(Quantizer):
    """Quantizer for vectors in the order of `SegmentLayout`.

    That order is G global vectors and then, level by level, one vector for each segment.

    Args:
        config: settings of the global and of the level codebooks.
        num_global: G, each with a codebook of its own; 0: none.
        levels: M, codebooks that the segments share; L = G + M * S.
        segments: S.
        code_width: D.
        residual: whether each code of a segment quantizes the remainder of the code before it.
    """

    def __init__(
        self,
        config: VectorQuantizerConfig,
        num_global: int,
        levels: int,
        segments: int,
        code_width: int,
        *,
        residual: bool = False,
    ) -> None:
        """Build the quantizers of global vectors and of levels."""
        super().__init__()
        self.num_global, self.levels, self.segments = num_global, levels, segments
        self.global_quantizer = (
            VectorQuantizer(config, num_global, code_width) if num_global else None
        )
        self.level_quantizer = VectorQuantizer(config, levels, code_width, residual=residual)

    def forward(self, vectors: Tensor, kept_mask: Tensor | None = None) -> Quantized:
        """Quantize global vectors and the vectors of segments."""
        global_vectors, level_vectors = self._split(vectors)
        kept_mask = all_kept(vectors) if kept_mask is None else kept_mask
        global_mask, level_mask = self._split(kept_mask)
        quantized = self.level_quantizer(level_vectors, level_mask)
        if self.global_quantizer is None:
            return Quantized(
                self._by_level(quantized.vectors), self._by_level(quantized.codes), quantized.loss
            )
        global_quantized = self.global_quantizer(global_vectors, global_mask)
        share = global_mask.sum() / kept_mask.sum()  # by number of codes
        return Quantized(
            torch.cat([global_quantized.vectors, self._by_level(quantized.vectors)], dim=1),
            torch.cat([global_quantized.codes, self._by_level(quantized.codes)], dim=1),
            share * global_quantized.loss + (1 - share) * quantized.loss,
        )

    def update_codebooks(
        self, generator: torch.Generator, collectives: DistributedContext | None = None
    ) -> None:
        """Update the codebooks of levels and of global vectors."""
        self.level_quantizer.update_codebooks(generator, collectives)
        if self.global_quantizer is not None:
            self.global_quantizer.update_codebooks(generator, collectives)

    def encode(self, vectors: Tensor) -> Tensor:
        """Return the codes of global vectors, followed by those of each level."""
        global_vectors, level_vectors = self._split(vectors)
        codes = self._by_level(self.level_quantizer.encode(level_vectors))
        return (
            codes
            if self.global_quantizer is None
            else torch.cat([self.global_quantizer.encode(global_vectors), codes], dim=1)
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors of a prefix of codes, whose last level may be incomplete."""
        global_codes, level_codes = codes[:, : self.num_global], codes[:, self.num_global :]
        found = (
            [] if self.global_quantizer is None else [self.global_quantizer.lookup(global_codes)]
        )
        if count := level_codes.shape[1]:
            # Pad an incomplete last level.
            level_codes = F.pad(level_codes, (0, -count % self.segments))
            rows = self._by_segment(level_codes)
            found.append(self._by_level(self.level_quantizer.lookup(rows))[:, :count])
        return torch.cat(found, dim=1)

    def init_codebooks(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Initialise the codebooks of global vectors and of levels."""
        global_vectors, level_vectors = self._split(vectors)
        if self.global_quantizer is not None:
            self.global_quantizer.init_codebooks(global_vectors, generator)
        chosen = torch.randperm(len(level_vectors), generator=generator)[: len(vectors)]
        # As many segments as there are samples are enough for the codebooks of levels.
        self.level_quantizer.init_codebooks(
            level_vectors[chosen.to(level_vectors.device)], generator
        )

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Split off the vectors of segments: [B, L, ...] -> [B, G, ...] and [B * S, M, ...]."""
        global_values, level_values = values[:, : self.num_global], values[:, self.num_global :]
        return global_values, self._by_segment(level_values)

    def _by_segment(self, values: Tensor) -> Tensor:
        """Reorder by segment: [B, m * S, ...] -> [B * S, m, ...]."""
        return values.unflatten(1, (-1, self.segments)).transpose(1, 2).flatten(0, 1)

    def _by_level(self, values: Tensor) -> Tensor:
        """Reorder by level (inverse of `_by_segment`): [B * S, m, ...] -> [B, m * S, ...]."""
        return values.unflatten(0, (-1, self.segments)).transpose(1, 2).flatten(1, 2)


MAX_SEGMENTS = 20_000
"""Largest number of segments to fit to; more of them slow k-means down and change little."""


@torch.no_grad()
def init_residual_pca(
    linear_skip: SegmentLayout,
    quantizer: LevelQuantizer,
    x: Tensor,
    generator: torch.Generator,
) -> None:
    """Fit a linear skip, its error feedback and its codebooks to samples, as residual PCA.

    This fits a residual quantizer (Juang & Gray 1982) to the samples themselves. Level m projects
    the remainder r_m of a segment to its D largest principal components B_m. It quantizes the
    result to the nearest of V k-means centres q_m, and leaves the remainder r_m - B_m q_m. The
    encoder needs this in terms of the sample x and the errors e_j = B_j' r_j - q_j of earlier
    levels:

        B_m' r_m = B_m' (I - P_m-1) ... (I - P_1) x
                   + sum_j B_m' (I - P_m-1) ... (I - P_j+1) B_j e_j

    with P_j = B_j B_j'. The first term is a linear map of the sample, and the second is error
    feedback. So the linear skip, the feedback and the codebooks can start as that quantizer. It
    orders the codes before the first step of training; the networks start with a zero output.

    Args:
        linear_skip: between samples and code vectors, without global vectors.
        quantizer: of these vectors, with error feedback and one codebook per level.
        x: float32 [N, *sample_shape].
        generator: source of randomness for segments and first centres, on the CPU.
    """
    local, levels = quantizer.level_quantizer, quantizer.levels
    assert linear_skip.num_global == 0
    assert local.feedback is not None
    width, vocabulary = local.codebooks.shape[2], local.codebooks.shape[1]
    parts = linear_skip.split_segments(x)
    parts = parts.flatten(0, 1).float()  # [N * S, P]
    parts = parts[torch.randperm(len(parts), generator=generator)[:MAX_SEGMENTS].to(parts.device)]
    linear_skip.project_part.linear.bias.zero_()
    linear_skip.expand_part.linear.bias.zero_()
    encoder = linear_skip.project_part.linear.weight.unflatten(0, (levels, width))  # [M, D, P]
    decoder = linear_skip.expand_part.linear.weight.unflatten(1, (levels, width))  # [P, M, D]
    feedback = local.feedback.weight.unflatten(1, (levels, width))  # [M, M, D, D]: from j to m
    remainder = parts
    maps = torch.eye(parts.shape[1], device=parts.device)  # from a segment to the remainder
    earlier: list[Tensor] = []  # from the error at each level to the remainder: [P, D]
    for level in range(levels):
        _, directions = torch.linalg.eigh((remainder.T @ remainder).double())  # variance rises
        basis = directions[:, -width:].flip(1).float()  # [P, D]
        projected = remainder @ basis
        centres = kmeans(projected[None], vocabulary, generator)[0]  # [V, D]
        local.codebooks[level], local.embed_avg[level] = centres, centres
        encoder[level], decoder[:, level] = basis.T @ maps, basis
        for j, reach in enumerate(earlier):
            feedback[level, j] = (basis.T @ reach).T
        remainder = remainder - centres[torch.cdist(projected, centres).argmin(1)] @ basis.T

        def cleared(reach: Tensor, basis: Tensor = basis) -> Tensor:
            return reach - basis @ (basis.T @ reach)

        maps = cleared(maps)
        earlier = [*map(cleared, earlier), basis]
