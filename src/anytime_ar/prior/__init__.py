"""The prior: a Transformer that draws ordered codes, coarse to fine."""

from __future__ import annotations

from anytime_ar.prior.backends import Backend, PrecisionOption, make_prior_decoder
from anytime_ar.prior.choice import (
    IS_UNCONDITIONAL,
    NO_UNCONDITIONAL,
    RowSamplingParams,
    SamplingParams,
)
from anytime_ar.prior.config import PriorConfig
from anytime_ar.prior.decoder import Precision, PriorDecoder
from anytime_ar.prior.native import NativePriorDecoder
from anytime_ar.prior.portable import TorchPriorDecoder
from anytime_ar.prior.rows import DecodeState, KVCache
from anytime_ar.prior.transformer import Prior

__all__ = [
    "IS_UNCONDITIONAL",
    "NO_UNCONDITIONAL",
    "Backend",
    "DecodeState",
    "KVCache",
    "NativePriorDecoder",
    "Precision",
    "PrecisionOption",
    "Prior",
    "PriorConfig",
    "PriorDecoder",
    "RowSamplingParams",
    "SamplingParams",
    "TorchPriorDecoder",
    "make_prior_decoder",
]
