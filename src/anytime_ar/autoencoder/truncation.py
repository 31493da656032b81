"""Truncation of a code sequence to a prefix (paper section 3.1).

Nested dropout samples a length `k ~ p(k)`. The decoder gets codes 1..k, and the fill (zeros in the
paper) in place of the rest. Learning to reconstruct from every prefix orders the codes by
importance. Only this module masks codes. Letters: `B` batch, `L` code length, `D` code width, `k`
codes of a prefix, 1..L.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.plugins import PartConfig, call_function


class TruncationConfig(Config):
    """The distribution `p(k)` of prefix lengths in training."""

    distribution: Literal["uniform", "geometric", "powers_of_two", "full"] | PartConfig = "uniform"
    """Shape of `p(k)`. `uniform` is the paper's; `full` never truncates (the ordinary, unordered
    autoencoder). Or import path and arguments of a function of L that returns L weights."""
    ratio: float = Field(0.9, gt=0, allow_inf_nan=False)
    """Ratio p(k + 1) / p(k) for `geometric`, above 0."""
    multiple: int = Field(1, ge=1)
    """Truncate to multiples of this number of codes only. Quantizer dropout, for example,
    truncates to whole levels of layout `residual_vq`."""
    full_probability: float = Field(0.5, ge=0, le=1)
    """Probability of not truncating, in 0..1; otherwise k follows `distribution`."""

    def build(self, code_length: int) -> Truncation:
        """Build the distribution over 1..`code_length`."""
        match self.distribution:
            case "uniform":
                base = Truncation.uniform(code_length)
            case "geometric":
                base = Truncation.geometric(code_length, self.ratio)
            case "powers_of_two":
                base = Truncation.powers_of_two(code_length)
            case "full":
                base = Truncation.full(code_length)
            case described:
                weights = call_function(described, "truncation distribution", code_length)
                base = Truncation(weights)
                if base.code_length != code_length:
                    raise InputError(
                        f"{described.kind} returns {base.code_length} weights; return "
                        f"{code_length}, one for each number of kept codes"
                    )
        return base.in_multiples_of(self.multiple).or_full(self.full_probability)


class Truncation:
    """A distribution `p(k)` over the prefix length, 1..L, on the CPU.

    Args:
        pmf: float [L], non-negative; `pmf[k - 1]` is proportional to the probability of length k.

    Raises:
        InputError: the weights are empty, negative, not finite, or all zero.
    """

    def __init__(self, pmf: Tensor) -> None:
        """Check the weights, and normalise them."""
        weights = torch.as_tensor(pmf, dtype=torch.float64, device="cpu")
        if weights.ndim != 1 or not len(weights):
            raise InputError(
                f"p(k) must be a vector of L weights, got shape {tuple(weights.shape)}"
            )
        if not torch.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
            raise InputError(
                f"p(k) must have finite weights >= 0 that are not all zero, got {weights.tolist()}"
            )
        self.pmf = weights / weights.sum()
        """Probabilities of lengths 1..L, float64 [L], with sum 1."""

    @property
    def code_length(self) -> int:
        """Return L, the largest length."""
        return len(self.pmf)

    @classmethod
    def uniform(cls, code_length: int) -> Self:
        """Return the uniform distribution over 1..L (the paper's)."""
        return cls(torch.ones(code_length, device="cpu"))

    @classmethod
    def geometric(cls, code_length: int, ratio: float) -> Self:
        """Return p(k) proportional to `ratio ** k` (nested dropout, Rippel et al. 2014)."""
        if not ratio > 0:
            raise InputError(f"the ratio of a geometric p(k) must be above 0, got {ratio}")
        return cls(ratio ** torch.arange(code_length, dtype=torch.float64, device="cpu"))

    @classmethod
    def powers_of_two(cls, code_length: int) -> Self:
        """Return the uniform distribution over {1, 2, 4, ...} and L."""
        weights = torch.zeros(code_length, device="cpu")
        weights[[2**i - 1 for i in range(code_length.bit_length())]] = 1
        weights[-1] = 1
        return cls(weights)

    @classmethod
    def full(cls, code_length: int) -> Self:
        """Return the distribution without truncation: always k = L."""
        weights = torch.zeros(code_length, device="cpu")
        weights[-1] = 1
        return cls(weights)

    def in_multiples_of(self, size: int) -> Truncation:
        """Return this distribution restricted to multiples of `size`.

        Raises:
            InputError: no length with a positive probability is a multiple of `size`.
        """
        whole = torch.arange(1, self.code_length + 1, device=self.pmf.device) % size == 0
        if not (self.pmf * whole).any():
            raise InputError(
                f"truncation.multiple is {size}, and no number of codes that is kept of "
                f"{self.code_length} is a multiple of it; choose a divisor of the code length"
            )
        return Truncation(self.pmf * whole)

    def or_full(self, probability: float) -> Truncation:
        """Return a mixture: k = L with `probability` (0..1), else k from this distribution."""
        if not 0 <= probability <= 1:
            raise InputError(f"the probability of a full length must be in 0..1, got {probability}")
        return Truncation(
            (1 - probability) * self.pmf + probability * Truncation.full(self.code_length).pmf
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Sample n prefix lengths: int64 [n], each in 1..L."""
        return torch.multinomial(self.pmf, n, replacement=True, generator=generator) + 1


def kept_mask(num_kept: Tensor, code_length: int) -> Tensor:
    """Return the mask that is true at positions < k: int64 [B] -> bool [B, L]."""
    return torch.arange(code_length, device=num_kept.device) < num_kept[:, None]


def truncate(vectors: Tensor, num_kept: Tensor, fill: Tensor) -> Tensor:
    """Replace the code vectors after the first k of each sample by the fill.

    Args:
        vectors: float [B, L, D].
        num_kept: k of each sample, int64 [B], in 1..L.
        fill: float [L, D], the vectors of truncated positions.

    Returns:
        float [B, L, D].
    """
    mask = kept_mask(num_kept, vectors.shape[1])[..., None]  # [B, L, 1]
    return torch.where(mask, vectors, fill.to(vectors.dtype))
