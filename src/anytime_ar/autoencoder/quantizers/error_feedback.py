"""Error feedback: later codes correct the quantization errors of earlier ones.

An encoder returns all L vectors before any of them is quantized. So later codes, which should
refine, do not know what the first codes lose. Here a learned linear map feeds the errors of earlier
codes forward, as a residual quantizer does with the identity. Ordered codes gain most: with error
feedback, order costs hardly any quality at full length. Decoding does not change.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class ErrorFeedback(nn.Module):
    """Shift of code vectors by a linear map of the quantization errors at earlier positions.

    Args:
        code_length: L.
        code_width: D.
        residual: whether to pass on the error of the code before, unchanged, instead of a learned
            map.
    """

    causal_mask: Tensor
    """Ones for errors of earlier positions, float32 [L, L * D, 1]."""
    weight: Tensor
    """Linear map from the errors to each position, float32 [L, L * D, D]."""

    def __init__(self, code_length: int, code_width: int, *, residual: bool = False) -> None:
        """Build the causal linear map, which starts at zero unless it is residual."""
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
        """Return the vectors to quantize, and the codes of their nearest entries.

        Args:
            vectors: the encoder's output, float32 [B, L, D].
            nearest_entry: function of vectors [B, D] and their position that returns the codes
                int64 [B] and vectors [B, D] of the nearest entries.

        Returns:
            Shifted vectors float32 [B, L, D], and codes int64 [B, L].
        """
        with torch.autocast(vectors.device.type, enabled=False):
            errors, chosen = self._errors(vectors, nearest_entry)  # [B, L * D], [B, L]
            # Errors carry no gradient, so one product computes the shifts of all positions.
            shifts = torch.einsum("bj,ljd->bld", errors, self.weight * self.causal_mask)
            return vectors + shifts, chosen

    @torch.no_grad()
    def _errors(
        self, vectors: Tensor, nearest_entry: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Quantize each position in turn: return errors [B, L * D] and codes int64 [B, L]."""
        batch, length, width = vectors.shape
        errors = vectors.new_zeros(batch, length * width)
        chosen = torch.zeros(batch, length, dtype=torch.int64, device=vectors.device)
        for position in range(length):
            here = position * width
            shifted = vectors[:, position] + errors[:, :here] @ self.weight[position, :here]
            chosen[:, position], entries = nearest_entry(shifted, position)
            errors[:, here : here + width] = shifted - entries
        return errors, chosen
