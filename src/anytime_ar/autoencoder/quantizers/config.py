"""What a quantizer is made of."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from anytime_ar.config import Config


class QuantizerConfig(Config):
    """Kind of quantizer and how its codebook is learned."""

    kind: Literal["vq", "fsq", "none"] = "vq"
    """`vq`: learned codebooks; `fsq`: a fixed grid; `none`: continuous codes (linear
    autoencoder)."""
    vocabulary: int = Field(64, ge=2)
    """V, entries of a codebook; for `fsq` it follows from `levels`."""
    shared_codebook: bool = False
    """One codebook for all positions (the paper) instead of one per position."""
    codebook_update: Literal["ema", "loss"] = "ema"
    """Codebook follows a moving average of the vectors assigned to it, or a loss (the paper)."""
    init: Literal["kmeans", "random", "residual_pca"] = "kmeans"
    """First codebook: k-means over a first batch of vectors; random entries (the paper); or, for
    layout=segment with a linear path, `greedy`: each level fitted to what those before it left."""
    ema_decay: float = Field(0.99, gt=0, lt=1)
    """`ema` only: share of the old average that one step keeps."""
    commitment: float = Field(0.25, ge=0)
    """Weight of the loss that pulls the encoder towards its codebook entry, or, with `fsq`, back to
    where the grid is."""
    dead_code_threshold: float = Field(0.03, ge=0)
    """Restart an entry whose share of use falls below this part of an even share (1/V); 0:
    never."""
    error_feedback: bool = True
    """`vq` only: let later codes correct the quantization errors of earlier ones."""
    levels: tuple[int, ...] = ()
    """`fsq` only: levels of each of the D dimensions, each >= 3; V is their product."""

    @model_validator(mode="after")
    def _levels_belong_to_fsq(self) -> Self:
        if self.kind == "fsq":
            if not self.levels or min(self.levels) < 3:
                # Of two levels the bound would leave one out of reach: its edge lies at -3.8.
                raise ValueError(
                    f"fsq needs levels >= 3 per dimension, e.g. [8, 5, 5], got {list(self.levels)}"
                )
        elif self.levels:
            raise ValueError(f"levels are for kind=fsq, but kind is {self.kind}; drop them")
        return self

    @property
    def size(self) -> int:
        """V, the number of entries a code chooses from."""
        return math.prod(self.levels) if self.kind == "fsq" else self.vocabulary
