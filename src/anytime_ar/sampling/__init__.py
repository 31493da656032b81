"""Anytime sampling: draw codes until a budget ends, decode any prefix, refine it later."""

from __future__ import annotations

from anytime_ar.prior import SamplingParams
from anytime_ar.sampling.arguments import BudgetKwargs, SampleKwargs
from anytime_ar.sampling.batch import DecodeBatch
from anytime_ar.sampling.budget import Budget, CancelFlag
from anytime_ar.sampling.loop import StopReason
from anytime_ar.sampling.model import AnytimeModel, load
from anytime_ar.sampling.plan import uniform_noise
from anytime_ar.sampling.result import Preview, SampleResult, SamplingState

__all__ = [
    "AnytimeModel",
    "Budget",
    "BudgetKwargs",
    "CancelFlag",
    "DecodeBatch",
    "Preview",
    "SampleKwargs",
    "SampleResult",
    "SamplingParams",
    "SamplingState",
    "StopReason",
    "load",
    "uniform_noise",
]
