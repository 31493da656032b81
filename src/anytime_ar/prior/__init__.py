"""The prior: a Transformer that draws ordered codes, coarse to fine."""

from __future__ import annotations

from anytime_ar.prior.backends import Backend, decoder_for
from anytime_ar.prior.config import PriorConfig
from anytime_ar.prior.decoder import Cache, Decoder, Precision
from anytime_ar.prior.native import NativeDecoder
from anytime_ar.prior.portable import PortableDecoder
from anytime_ar.prior.transformer import Prior

__all__ = [
    "Backend",
    "Cache",
    "Decoder",
    "NativeDecoder",
    "PortableDecoder",
    "Precision",
    "Prior",
    "PriorConfig",
    "decoder_for",
]
