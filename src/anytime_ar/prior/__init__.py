"""The prior: a Transformer that draws ordered codes, coarse to fine."""

from __future__ import annotations

from anytime_ar.prior.cache import KVCache
from anytime_ar.prior.config import PriorConfig
from anytime_ar.prior.decoder import Decoder
from anytime_ar.prior.linear import Precision
from anytime_ar.prior.transformer import Prior

__all__ = ["Decoder", "KVCache", "Precision", "Prior", "PriorConfig"]
