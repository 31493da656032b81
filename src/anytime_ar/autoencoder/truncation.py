"""Truncation of a code sequence to a prefix (paper section 3.1): the one place that masks codes.

Nested dropout draws a number of kept codes `k ~ p(k)` and lets the decoder see codes 1..k only; the
rest is filled, by zeros in the paper. Learning to reconstruct from every prefix orders the codes by
importance. Letters: `B` batch, `L` code length, `D` code width, `k` kept codes, 1..L.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from anytime_ar.config import Config
from anytime_ar.errors import InputError


class TruncationConfig(Config):
    """Which `p(k)` a training run draws from."""

    distribution: Literal["uniform", "geometric", "powers_of_two", "full"] = "uniform"
    """`uniform` is the paper's; `full` never truncates (the ordinary, unordered autoencoder)."""
    ratio: float = Field(0.9, gt=0, allow_inf_nan=False)
    """`geometric` only: p(k + 1) / p(k), above 0."""
    multiple: int = Field(1, ge=1)
    """Keep whole groups of so many codes only, as quantizer dropout keeps whole levels of layout
    residual."""
    full_probability: float = Field(0.5, ge=0, le=1)
    """Keep all codes with this probability, else draw from `distribution`; 0..1."""

    def build(self, code_length: int) -> Truncation:
        """The distribution over 1..`code_length`."""
        match self.distribution:
            case "uniform":
                base = Truncation.uniform(code_length)
            case "geometric":
                base = Truncation.geometric(code_length, self.ratio)
            case "powers_of_two":
                base = Truncation.powers_of_two(code_length)
            case "full":
                base = Truncation.full(code_length)
        return base.in_multiples_of(self.multiple).or_full(self.full_probability)


class Truncation:
    """A distribution `p(k)` over the number of kept codes, 1..L.

    Args:
        pmf: float [L], non-negative; `pmf[k - 1]` is proportional to the probability of keeping k
            codes.

    Raises:
        InputError: the weights are empty, negative, not finite, or all zero.
    """

    def __init__(self, pmf: Tensor) -> None:
        weights = torch.as_tensor(pmf, dtype=torch.float64)
        if weights.ndim != 1 or not len(weights):
            raise InputError(
                f"p(k) must be a vector of L weights, got shape {tuple(weights.shape)}"
            )
        if not torch.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
            raise InputError(
                f"p(k) must have finite weights >= 0 that are not all zero, got {weights.tolist()}"
            )
        self.pmf = weights / weights.sum()
        """float64 [L], sums to 1."""

    @property
    def code_length(self) -> int:
        """L."""
        return len(self.pmf)

    @classmethod
    def uniform(cls, code_length: int) -> Self:
        """Every k in 1..L alike (the paper's choice)."""
        return cls(torch.ones(code_length))

    @classmethod
    def geometric(cls, code_length: int, ratio: float) -> Self:
        """p(k) proportional to `ratio ** k` (nested dropout, Rippel et al. 2014)."""
        if not ratio > 0:
            raise InputError(f"the ratio of a geometric p(k) must be above 0, got {ratio}")
        return cls(ratio ** torch.arange(code_length, dtype=torch.float64))

    @classmethod
    def powers_of_two(cls, code_length: int) -> Self:
        """k in {1, 2, 4, ...} and L, alike."""
        kept = torch.zeros(code_length)
        kept[[2**i - 1 for i in range(code_length.bit_length())]] = 1
        kept[-1] = 1
        return cls(kept)

    @classmethod
    def full(cls, code_length: int) -> Self:
        """Always k = L: no truncation."""
        kept = torch.zeros(code_length)
        kept[-1] = 1
        return cls(kept)

    def in_multiples_of(self, size: int) -> Truncation:
        """The same, of what is a multiple of `size`.

        Raises:
            InputError: nothing is.
        """
        whole = torch.arange(1, self.code_length + 1) % size == 0
        if not (self.pmf * whole).any():
            raise InputError(
                f"truncation.multiple is {size}, and no number of codes that is kept of "
                f"{self.code_length} is a multiple of it; choose a divisor of the code length"
            )
        return Truncation(self.pmf * whole)

    def or_full(self, probability: float) -> Truncation:
        """Keep all codes with `probability` (0..1), else draw from this distribution."""
        if not 0 <= probability <= 1:
            raise InputError(f"the probability of a full length must be in 0..1, got {probability}")
        return Truncation(
            (1 - probability) * self.pmf + probability * Truncation.full(self.code_length).pmf
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n numbers of kept codes: int64 [n], each in 1..L."""
        return torch.multinomial(self.pmf, n, replacement=True, generator=generator) + 1


def kept_mask(num_kept: Tensor, code_length: int) -> Tensor:
    """Which positions each sample keeps: int64 [B] -> bool [B, L], true at positions < k."""
    return torch.arange(code_length, device=num_kept.device) < num_kept[:, None]


def truncate(vectors: Tensor, num_kept: Tensor, fill: Tensor) -> Tensor:
    """Keep each sample's first k code vectors and put `fill` in place of the rest.

    Args:
        vectors: float [B, L, D].
        num_kept: int64 [B], each in 1..L.
        fill: float [L, D], what stands at a position that is cut off.

    Returns:
        float [B, L, D].
    """
    mask = kept_mask(num_kept, vectors.shape[1])[..., None]  # [B, L, 1]
    return torch.where(mask, vectors, fill.to(vectors.dtype))
