"""The ordered autoencoder: samples to codes, and every prefix of codes to a complete sample."""

from __future__ import annotations

from anytime_ar.autoencoder.config import (
    AutoencoderConfig,
    ChannelConfig,
    CustomConfig,
    LappedSegmentConfig,
    LinearConfig,
    ProjectionConfig,
    ResidualVQConfig,
    SegmentConfig,
    SpatialConfig,
)
from anytime_ar.autoencoder.model import Decoded, OrderedAutoencoder, Reconstruction
from anytime_ar.autoencoder.native_decoder import NativeImageDecoder, make_decode_fn
from anytime_ar.autoencoder.networks import IMAGE_PRESETS, NetworkConfig
from anytime_ar.autoencoder.quantizers import QuantizerConfig, VectorQuantizerConfig
from anytime_ar.autoencoder.tokenizer import Tokenizer, check_tokenizer, require_tokenizer
from anytime_ar.autoencoder.truncation import Truncation, TruncationConfig, kept_mask, truncate

__all__ = [
    "IMAGE_PRESETS",
    "AutoencoderConfig",
    "ChannelConfig",
    "CustomConfig",
    "Decoded",
    "LappedSegmentConfig",
    "LinearConfig",
    "NativeImageDecoder",
    "NetworkConfig",
    "OrderedAutoencoder",
    "ProjectionConfig",
    "QuantizerConfig",
    "Reconstruction",
    "ResidualVQConfig",
    "SegmentConfig",
    "SpatialConfig",
    "Tokenizer",
    "Truncation",
    "TruncationConfig",
    "VectorQuantizerConfig",
    "check_tokenizer",
    "kept_mask",
    "make_decode_fn",
    "require_tokenizer",
    "truncate",
]
