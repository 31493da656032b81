"""What a prior is made of."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from anytime_ar.config import Config


class PriorConfig(Config):
    """A decoder-only Transformer over codes."""

    layers: int = Field(4, ge=1)
    width: int = Field(192, ge=1)
    heads: int = Field(6, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    """Hidden width of a feed-forward block, as a multiple of `width`."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """On embeddings, attention outputs and feed-forward outputs."""
    shared_entries: int = Field(1, ge=1)
    """So many neighbouring positions, counted from the last, share a table of entries, as the
    segments of one level do in the autoencoder."""
    entry_width: int | None = Field(None, ge=1)
    """Width of the tables before a linear map to `width`; None: the same, and no map."""
    traits: int = Field(0, ge=0)
    """So many fixed numbers tell of each entry, beside learned ones, what it means in the
    autoencoder; training takes them from there. Needs `entry_width`."""
    label_everywhere: bool = False
    """Add the label to the input of every position, not of the first alone, which a long sequence
    is slow to learn to look back to."""
    label_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of training samples whose label is hidden, for classifier-free guidance."""

    @model_validator(mode="after")
    def _codebook_features_need_projection(self) -> Self:
        if self.traits and not self.entry_width:
            raise ValueError(
                f"traits is {self.traits}, which needs entry_width, e.g. 24; set it, or drop traits"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not divisible by heads {self.heads}; change one of them"
            )
        return self
