"""Error feedback: a code is chosen knowing what the codes before it got wrong.

An encoder emits all L vectors at once, before any of them is quantized, so what quantization loses
at the first codes is unknown to the later ones, which are there to refine. Here the errors of
earlier codes are fed forward through a learned linear map, as a residual quantizer does with the
identity, so that later codes correct them. Ordering gains the most: with it, order costs hardly any
quality at full length. Decoding is not concerned: it looks codes up as ever.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class ErrorFeedback(nn.Module):
    """Shifts code vectors by a linear map of the quantization errors at earlier positions.

    Args:
        code_length: L.
        code_width: D.
        residual: hand on the error of the code before, as it is, instead of learning what to.
    """

    causal_mask: Tensor
    weight: Tensor

    def __init__(self, code_length: int, code_width: int, *, residual: bool = False) -> None:
        super().__init__()
        inputs = code_length * code_width
        weight = torch.zeros(code_length, inputs, code_width)  # [L, L * D, D]
        if residual:
            for position in range(1, code_length):
                weight[
                    position, (position - 1) * code_width : position * code_width
                ].fill_diagonal_(1)
            self.register_buffer("weight", weight, persistent=False)
        else:
            self.weight = nn.Parameter(weight)
        earlier = torch.ones(code_length, code_length).tril(diagonal=-1)  # [L, L]
        earlier = earlier.repeat_interleave(code_width, dim=1)[..., None]  # [L, L * D, 1]
        self.register_buffer("causal_mask", earlier, persistent=False)

    def forward(
        self, vectors: Tensor, nearest_entry: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Vectors as they are to be quantized, and the entries that they get.

        Args:
            vectors: the encoder's output, float32 [B, L, D].
            nearest_entry: numbers int64 [B] and vectors [B, D] of the entries nearest to vectors [B, D]
                of a position.

        Returns:
            float32 [B, L, D] and int64 [B, L].
        """
        with torch.autocast(vectors.device.type, enabled=False):
            errors, chosen = self._errors(vectors, nearest_entry)  # [B, L * D], [B, L]
            # Errors are noise to the gradient, so one product serves all positions.
            shifts = torch.einsum("bj,ljd->bld", errors, self.weight * self.causal_mask)
            return vectors + shifts, chosen

    @torch.no_grad()
    def _errors(
        self, vectors: Tensor, nearest_entry: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        batch, length, width = vectors.shape
        errors = vectors.new_zeros(batch, length * width)
        chosen = torch.zeros(batch, length, dtype=torch.int64, device=vectors.device)
        for position in range(length):
            here = position * width
            shifted = vectors[:, position] + errors[:, :here] @ self.weight[position, :here]
            chosen[:, position], entries = nearest_entry(shifted, position)
            errors[:, here : here + width] = shifted - entries
        return errors, chosen
