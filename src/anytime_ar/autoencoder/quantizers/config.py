"""Configuration of a quantizer: a class for each kind, which builds the quantizer."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from anytime_ar.autoencoder.quantizers.base import NoQuantizer, Quantizer
from anytime_ar.autoencoder.quantizers.finite_scalar import FiniteScalarQuantizer
from anytime_ar.autoencoder.quantizers.level import LevelQuantizer
from anytime_ar.autoencoder.quantizers.vector import VectorQuantizer
from anytime_ar.config import Config, ConfigUnion, short_repr

MAX_VOCABULARY = 2**16
"""Largest number of codebook entries. The prior has an embedding and a logit for each."""


class LappedQuantizerConfig(ConfigUnion):
    """A quantizer of the code vectors of lapped segments."""

    discriminator: ClassVar[str] = "kind"
    default_member: ClassVar[str] = "vq"

    kind: str
    """Name of the kind of quantizer."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Return V, the number of codebook entries."""

    @property
    def code_width(self) -> int | None:
        """Return D if the quantizer fixes it."""
        return None

    @abstractmethod
    def build_levels(
        self, num_global: int, levels: int, segments: int, code_width: int
    ) -> Quantizer:
        """Build the quantizer of G global vectors and of the M levels of S segments.

        Args:
            num_global: G.
            levels: M.
            segments: S.
            code_width: D.
        """

    def unordered(self) -> LappedQuantizerConfig:
        """Return the same quantizer without an initialisation that orders codes."""
        return self


class QuantizerConfig(LappedQuantizerConfig):
    """A quantizer of code vectors, for any layout."""

    @abstractmethod
    def build(self, code_length: int, code_width: int) -> Quantizer:
        """Build the quantizer of L vectors of width D.

        Args:
            code_length: L.
            code_width: D.
        """

    def build_levels(
        self, num_global: int, levels: int, segments: int, code_width: int
    ) -> Quantizer:
        """Build one quantizer of all vectors, whichever segments they belong to."""
        return self.build(num_global + levels * segments, code_width)


class CodebookConfig(Config):
    """Size of codebooks, and how they are learned."""

    vocabulary: int = Field(64, ge=2, le=MAX_VOCABULARY)
    """V, the number of entries of a codebook, at most 65,536."""
    codebook_update: Literal["ema", "loss"] = "ema"
    """How codebooks are learned: as a moving average of the vectors assigned to each entry, or
    by a loss (the paper)."""
    ema_decay: float = Field(0.99, gt=0, lt=1)
    """Weight of the old moving average in one step, for `ema` only."""
    commitment: float = Field(0.25, ge=0)
    """Weight of the loss that pulls the encoder's vectors towards their codebook entries."""
    dead_code_threshold: float = Field(0.03, ge=0)
    """Usage below which an entry restarts, as a fraction of the mean usage (1/V); 0: never."""

    @property
    def size(self) -> int:
        """Return V, the number of codebook entries."""
        return self.vocabulary


class VectorQuantizerConfig(CodebookConfig, QuantizerConfig):
    """Vector quantization with learned codebooks."""

    kind: Literal["vq"] = "vq"
    shared_codebook: bool = False
    """Share one codebook between all positions (the paper), instead of one per position."""
    init: Literal["kmeans", "random"] = "kmeans"
    """How codebooks are initialised. `kmeans`: k-means over vectors of the first batches.
    `random`: random entries (the paper)."""
    error_feedback: bool = True
    """Let later codes correct the quantization errors of earlier ones."""

    def build(self, code_length: int, code_width: int) -> Quantizer:
        """Build a codebook for each position, or one for all."""
        return VectorQuantizer(self, code_length, code_width)

    def build_levels(
        self, num_global: int, levels: int, segments: int, code_width: int
    ) -> Quantizer:
        """Build a codebook for each level, which segments share."""
        return LevelQuantizer(self, num_global, levels, segments, code_width)


class ResidualQuantizerConfig(VectorQuantizerConfig):
    """Residual vector quantization: each level has a codebook for what those before it leave."""

    shared_codebook: Literal[False] = False
    """Always false: each level has a codebook of its own."""
    error_feedback: Literal[True] = True
    """Always true: each level quantizes the errors of the level before."""

    def build(self, code_length: int, code_width: int) -> Quantizer:
        """Build a codebook for each of L levels; the first one gets what is to be quantized."""
        return VectorQuantizer(self, code_length, code_width, residual=True)


class ResidualPCAQuantizerConfig(CodebookConfig, LappedQuantizerConfig):
    """Vector quantization that starts as residual PCA.

    Each level is initialised with principal components of what the levels before it leave. This
    orders the codes before the first step of training.
    """

    kind: Literal["residual_pca"] = "residual_pca"

    def build_levels(
        self, num_global: int, levels: int, segments: int, code_width: int
    ) -> Quantizer:
        """Build a codebook for each level, which segments share, and error feedback."""
        config = VectorQuantizerConfig(**self.model_dump(exclude={"kind"}))
        return LevelQuantizer(config, num_global, levels, segments, code_width)

    def unordered(self) -> VectorQuantizerConfig:
        """Return the same codebooks with k-means in place of PCA, and without error feedback."""
        return VectorQuantizerConfig(**self.model_dump(exclude={"kind"}), error_feedback=False)


class FiniteScalarQuantizerConfig(QuantizerConfig):
    """Finite scalar quantization on a fixed grid."""

    kind: Literal["fsq"] = "fsq"
    levels: tuple[int, ...] = Field(default=(), validate_default=True)
    """Number of values in each of the D dimensions, each >= 3; V is their product, at most
    65,536."""
    commitment: float = Field(0.25, ge=0)
    """Weight of the loss that pulls the encoder's vectors back into the range of the grid."""

    @field_validator("levels")
    @classmethod
    def _check_levels(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if not levels or min(levels) < 3:
            # With two levels, the bound of the first one is at -3.8, out of reach.
            raise ValueError(
                f"fsq needs levels >= 3 per dimension, e.g. [8, 5, 5], got {list(levels)}"
            )
        if math.prod(levels) > MAX_VOCABULARY:
            raise ValueError(
                f"fsq has at most {MAX_VOCABULARY:,} codebook entries, and the levels "
                f"{short_repr(list(levels))} make more; give fewer or smaller ones"
            )
        return levels

    @property
    def size(self) -> int:
        """Return V, the number of points of the grid."""
        return math.prod(self.levels)

    @property
    def code_width(self) -> int:
        """Return D, the number of dimensions of the grid."""
        return len(self.levels)

    def build(self, code_length: int, code_width: int) -> Quantizer:  # noqa: ARG002
        """Build the grid, which is the same at every position."""
        return FiniteScalarQuantizer(self.levels, self.commitment)


class NoQuantizerConfig(QuantizerConfig):
    """Continuous code vectors, for reconstruction without codes."""

    kind: Literal["none"] = "none"

    @property
    def size(self) -> int:
        """Return V = 1: code 0 stands for every vector."""
        return 1

    def build(self, code_length: int, code_width: int) -> Quantizer:  # noqa: ARG002
        """Build a quantizer that leaves vectors as they are."""
        return NoQuantizer()
