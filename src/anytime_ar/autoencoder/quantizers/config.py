"""Configuration of a quantizer and of its codebooks."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from anytime_ar.config import Config


class QuantizerConfig(Config):
    """Kind of quantizer, and how its codebooks are learned."""

    kind: Literal["vq", "fsq", "none"] = "vq"
    """Kind of quantizer. `vq`: learned codebooks; `fsq`: a fixed grid; `none`: continuous
    vectors (linear autoencoder)."""
    vocabulary: int = Field(64, ge=2)
    """V, the number of entries of a codebook; for `fsq` it follows from `levels`."""
    shared_codebook: bool = False
    """Share one codebook between all positions (the paper), instead of one per position."""
    codebook_update: Literal["ema", "loss"] = "ema"
    """How codebooks are learned: as a moving average of the vectors assigned to each entry, or
    by a loss (the paper)."""
    init: Literal["kmeans", "random", "residual_pca"] = "kmeans"
    """How codebooks are initialised. `kmeans`: k-means over vectors of the first batches.
    `random`: random entries (the paper). `greedy`: residual PCA, each level fitted to the
    remainder of those before it, for layout `segment` with a linear skip."""
    ema_decay: float = Field(0.99, gt=0, lt=1)
    """Weight of the old moving average in one step, for `ema` only."""
    commitment: float = Field(0.25, ge=0)
    """Weight of the loss that pulls the encoder's vectors towards their codebook entries or, for
    `fsq`, back into the range of the grid."""
    dead_code_threshold: float = Field(0.03, ge=0)
    """Usage below which an entry restarts, as a fraction of the mean usage (1/V); 0: never."""
    error_feedback: bool = True
    """Let later codes correct the quantization errors of earlier ones, for `vq` only."""
    levels: tuple[int, ...] = ()
    """Number of values in each of the D dimensions, for `fsq` only, each >= 3; V is their
    product."""

    @model_validator(mode="after")
    def _levels_belong_to_fsq(self) -> Self:
        if self.kind == "fsq":
            if not self.levels or min(self.levels) < 3:
                # With two levels, the bound of the first one is at -3.8, out of reach.
                raise ValueError(
                    f"fsq needs levels >= 3 per dimension, e.g. [8, 5, 5], got {list(self.levels)}"
                )
        elif self.levels:
            raise ValueError(f"levels are for kind=fsq, but kind is {self.kind}; drop them")
        return self

    @property
    def size(self) -> int:
        """Return V, the number of codebook entries."""
        return math.prod(self.levels) if self.kind == "fsq" else self.vocabulary
