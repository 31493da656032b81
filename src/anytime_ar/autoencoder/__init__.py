"""Ordered autoencoder: samples <-> codes whose every prefix decodes to a complete sample."""

from __future__ import annotations

from anytime_ar.autoencoder.config import PRESETS, AutoencoderConfig, NetworkConfig
from anytime_ar.autoencoder.model import Decoded, OrderedAutoencoder
from anytime_ar.autoencoder.native import NativeDecode, decode_for
from anytime_ar.autoencoder.quantizers import QuantizerConfig
from anytime_ar.autoencoder.truncation import Truncation, TruncationConfig, keep, kept_mask

__all__ = [
    "PRESETS",
    "AutoencoderConfig",
    "Decoded",
    "NativeDecode",
    "NetworkConfig",
    "OrderedAutoencoder",
    "QuantizerConfig",
    "Truncation",
    "TruncationConfig",
    "decode_for",
    "keep",
    "kept_mask",
]
