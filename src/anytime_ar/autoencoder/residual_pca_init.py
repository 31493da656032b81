"""Initialisation by residual PCA: each level codes principal components of the remainder.

This fits a residual quantizer (Juang & Gray 1982) to the samples themselves. Level m projects the
remainder r_m of a segment to its D largest principal components B_m. It quantizes the result to the
nearest of V k-means centres q_m, and leaves the remainder r_m - B_m q_m. The encoder needs this in
terms of the sample x and the errors e_j = B_j' r_j - q_j of earlier levels:

    B_m' r_m = B_m' (I - P_m-1) ... (I - P_1) x  +  sum_j B_m' (I - P_m-1) ... (I - P_j+1) B_j e_j

with P_j = B_j B_j'. The first term is a linear map of the sample, and the second is error feedback.
So the linear skip, the feedback and the codebooks can start as that quantizer. It orders the codes
before the first step of training; the networks start with a zero output.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anytime_ar.autoencoder.layouts import SegmentLayout
from anytime_ar.autoencoder.quantizers import LevelQuantizer
from anytime_ar.autoencoder.quantizers.vector import kmeans

MAX_SEGMENTS = 20_000
"""Largest number of segments to fit to; more of them slow k-means down and change little."""


@torch.no_grad()
def init_residual_pca(
    linear_skip: SegmentLayout,
    quantizer: LevelQuantizer,
    x: Tensor,
    generator: torch.Generator,
) -> None:
    """Fit a linear skip, its error feedback and its codebooks to samples.

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
