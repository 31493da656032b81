"""From logits to a code: temperature, top-k and top-p, and the choice itself."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from anytime_ar.config import Config


class ChoiceConfig(Config):
    """How a code is drawn from the prior's logits."""

    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    """Above 1 more varied, below 1 more typical; 0 takes the most likely code."""
    top_k: int | None = Field(None, ge=1)
    """Only the k most likely entries, and those that tie with the last of them."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Only the most likely entries that together hold this probability (Holtzman et al. 2020)."""
    guidance: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    """Classifier-free guidance (Ho & Salimans 2022): 1 follows the label as trained, above 1 more
    strongly, 0 ignores it. Anything but 1 doubles the work."""


def guide(with_label: Tensor, without_label: Tensor, scale: float) -> Tensor:
    """Move logits float [B, V] away from those drawn without the label."""
    return without_label + scale * (with_label - without_label)


def choose(logits: Tensor, noise: Tensor, config: ChoiceConfig) -> Tensor:
    """Draw one code per row by inverting the cumulative distribution.

    Args:
        logits: float [B, V].
        noise: float64 [B] in [0, 1), one number per row.
        config: temperature, top-k, top-p.

    Returns:
        int64 [B] in 0..V-1.
    """
    if config.temperature == 0:
        return logits.argmax(-1)
    logits = logits.double()
    if config.temperature != 1:
        logits = logits / config.temperature
    if config.top_k is not None and config.top_k < logits.shape[-1]:
        least = logits.topk(config.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if config.top_p < 1:
        probabilities = _nucleus(probabilities, config.top_p)
    cumulative = probabilities.cumsum(-1)  # [B, V]
    # Noise is scaled by the total, which rounding leaves just beside 1, so that the index found is
    # always one of 0..V-1.
    threshold = noise[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]


def _nucleus(probabilities: Tensor, mass: float) -> Tensor:
    """Zero all but the fewest most likely entries that hold `mass`: [B, V] -> [B, V]."""
    ordered, indices = probabilities.sort(stable=True, dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered  # probability of the entries ahead
    return torch.zeros_like(probabilities).scatter(
        -1, indices, ordered.masked_fill(before >= mass, 0.0)
    )
