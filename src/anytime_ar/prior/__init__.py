"""The prior: a Transformer that generates ordered codes, coarse to fine."""

from __future__ import annotations

from anytime_ar.prior.causal import CausalPrior
from anytime_ar.prior.decoders import Backend, PrecisionOption, make_prior_decoder
from anytime_ar.prior.decoders.base import DecodeState, Precision, PriorDecoder
from anytime_ar.prior.decoders.causal import CausalPriorDecoder
from anytime_ar.prior.decoders.native import NativePriorDecoder
from anytime_ar.prior.decoders.torch import TorchPriorDecoder
from anytime_ar.prior.kv_cache import KVCache, TensorCache
from anytime_ar.prior.sampling_params import RowSamplingParams, SamplingParams, link_rows
from anytime_ar.prior.transformer import Prior, PriorConfig

__all__ = [
    "Backend",
    "CausalPrior",
    "CausalPriorDecoder",
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
    "TensorCache",
    "TorchPriorDecoder",
    "link_rows",
    "make_prior_decoder",
]
