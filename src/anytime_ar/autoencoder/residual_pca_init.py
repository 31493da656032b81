"""A start for segments: level by level, the principal components of what earlier levels left.

A residual quantizer (Juang & Gray 1982) fitted to the samples themselves. Level m projects what is
left of a segment, r_m, to its D largest principal components B_m, chooses the nearest of V centres
q_m found by k-means, and leaves r_m - B_m q_m. Written out with the errors e_j = B_j' r_j - q_j of
the levels before, as the encoder has to,

    B_m' r_m = B_m' (I - P_m-1) ... (I - P_1) x  +  sum_j B_m' (I - P_m-1) ... (I - P_j+1) B_j e_j

with P_j = B_j B_j': a linear map of the samples, and error feedback. So the linear path, the
feedback and the codebooks can start as that quantizer, which orders the codes before the first step
of training; the networks start without a say.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anytime_ar.autoencoder.layouts import SegmentLayout
from anytime_ar.autoencoder.quantizers import LevelQuantizer
from anytime_ar.autoencoder.quantizers.vector import kmeans

MAX_SEGMENTS = 20_000
"""More add time to k-means, and little else."""


@torch.no_grad()
def init_residual_pca(
    linear_skip: SegmentLayout,
    quantizer: LevelQuantizer,
    x: Tensor,
    generator: torch.Generator,
) -> None:
    """Fit a linear path, its error feedback and its codebooks to samples.

    Args:
        linear_skip: between samples and code vectors; without vectors for the whole.
        quantizer: of its vectors, with error feedback and a codebook for each level.
        x: float32 [N, *sample_shape].
        generator: chooses segments and first centres; on the CPU.
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
    left = parts
    maps = torch.eye(parts.shape[1], device=parts.device)  # what is left, of the samples
    earlier: list[Tensor] = []  # what is left, of the error at each level: [P, D]
    for level in range(levels):
        _, directions = torch.linalg.eigh((left.T @ left).double())  # by rising variance
        basis = directions[:, -width:].flip(1).float()  # [P, D]
        seen = left @ basis
        centres = kmeans(seen[None], vocabulary, generator)[0]  # [V, D]
        local.codebooks[level], local.embed_avg[level] = centres, centres
        encoder[level], decoder[:, level] = basis.T @ maps, basis
        for j, reach in enumerate(earlier):
            feedback[level, j] = (basis.T @ reach).T
        left = left - centres[torch.cdist(seen, centres).argmin(1)] @ basis.T

        def cleared(reach: Tensor, basis: Tensor = basis) -> Tensor:
            return reach - basis @ (basis.T @ reach)

        maps = cleared(maps)
        earlier = [*map(cleared, earlier), basis]
