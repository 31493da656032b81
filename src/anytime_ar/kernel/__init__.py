"""Our own kernel for CPUs: a step of the prior, and pictures from codes, each in one call."""

from __future__ import annotations

from anytime_ar.kernel.build import BuildError, kernel
from anytime_ar.kernel.weights import LinearMap, Weights, pad_up

__all__ = ["BuildError", "LinearMap", "Weights", "kernel", "pad_up"]
