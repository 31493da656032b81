"""Quantizers: continuous code vectors [B, L, D] to codes in 0..V-1, and codes to vectors.

`VectorQuantizer` (learned codebooks), `LevelQuantizer` (codebooks that segments share),
`FiniteScalarQuantizer` (a fixed grid) and `NoQuantizer` (for the linear autoencoder, whose
truncation must recover PCA) share one interface: `Quantizer`. Each has a configuration that builds
it.
"""

from __future__ import annotations

from anytime_ar.autoencoder.quantizers.base import NoQuantizer, Quantized, Quantizer, all_kept
from anytime_ar.autoencoder.quantizers.config import (
    FiniteScalarQuantizerConfig,
    LappedQuantizerConfig,
    NoQuantizerConfig,
    QuantizerConfig,
    ResidualPCAQuantizerConfig,
    ResidualQuantizerConfig,
    VectorQuantizerConfig,
)
from anytime_ar.autoencoder.quantizers.finite_scalar import FiniteScalarQuantizer
from anytime_ar.autoencoder.quantizers.level import LevelQuantizer
from anytime_ar.autoencoder.quantizers.vector import VectorQuantizer

__all__ = [
    "FiniteScalarQuantizer",
    "FiniteScalarQuantizerConfig",
    "LappedQuantizerConfig",
    "LevelQuantizer",
    "NoQuantizer",
    "NoQuantizerConfig",
    "Quantized",
    "Quantizer",
    "QuantizerConfig",
    "ResidualPCAQuantizerConfig",
    "ResidualQuantizerConfig",
    "VectorQuantizer",
    "VectorQuantizerConfig",
    "all_kept",
]
