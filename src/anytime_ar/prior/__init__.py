"""The prior: a Transformer that draws ordered codes, coarse to fine."""

from __future__ import annotations

from anytime_ar.prior.backends import Backend, PrecisionChoice, decoder_for
from anytime_ar.prior.choice import IS_SHADOW, NO_SHADOW, ChoiceConfig, RowChoice
from anytime_ar.prior.config import PriorConfig
from anytime_ar.prior.decoder import Decoder, Precision
from anytime_ar.prior.native import NativeDecoder
from anytime_ar.prior.portable import PortableDecoder
from anytime_ar.prior.rows import Cache, Rows
from anytime_ar.prior.transformer import Prior

__all__ = [
    "IS_SHADOW",
    "NO_SHADOW",
    "Backend",
    "Cache",
    "ChoiceConfig",
    "Decoder",
    "NativeDecoder",
    "PortableDecoder",
    "Precision",
    "PrecisionChoice",
    "Prior",
    "PriorConfig",
    "RowChoice",
    "Rows",
    "decoder_for",
]
