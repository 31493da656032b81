"""Quantizers: continuous code vectors [B, L, D] to codes in 0..V-1, and codes to vectors.

`VectorQuantizer` (learned codebooks), `LevelQuantizer` (codebooks that segments share),
`FiniteScalarQuantizer` (a fixed grid) and `NoQuantizer` (for the linear autoencoder, whose
truncation must recover PCA) share one interface: `Quantizer`.
"""

from __future__ import annotations

from anytime_ar.autoencoder.quantizers.base import NoQuantizer, Quantized, Quantizer
from anytime_ar.autoencoder.quantizers.config import QuantizerConfig
from anytime_ar.autoencoder.quantizers.finite_scalar import FiniteScalarQuantizer
from anytime_ar.autoencoder.quantizers.level import LevelQuantizer
from anytime_ar.autoencoder.quantizers.vector import VectorQuantizer

__all__ = [
    "FiniteScalarQuantizer",
    "LevelQuantizer",
    "NoQuantizer",
    "Quantized",
    "Quantizer",
    "QuantizerConfig",
    "VectorQuantizer",
    "build_quantizer",
]


def build_quantizer(config: QuantizerConfig, code_length: int, code_width: int) -> Quantizer:
    """Build the configured quantizer.

    Args:
        config: kind of quantizer, and how its codebooks are learned.
        code_length: L.
        code_width: D.
    """
    match config.kind:
        case "vq":
            return VectorQuantizer(config, code_length, code_width)
        case "fsq":
            return FiniteScalarQuantizer(config.levels, config.commitment)
        case "none":
            return NoQuantizer()
