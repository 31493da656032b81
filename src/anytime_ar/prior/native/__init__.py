"""The decode path as one call into our own kernel, `step.cpp`."""

from __future__ import annotations

from anytime_ar.prior.native.decoder import NativeDecoder, refusal

__all__ = ["NativeDecoder", "refusal"]
