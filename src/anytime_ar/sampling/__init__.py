"""Anytime sampling: draw codes until a budget ends, decode whatever there is, go on later."""

from __future__ import annotations

from anytime_ar.prior import ChoiceConfig
from anytime_ar.sampling.batch import DecodeBatch
from anytime_ar.sampling.budget import Budget, CancelFlag
from anytime_ar.sampling.devices import choose_device
from anytime_ar.sampling.loading import load
from anytime_ar.sampling.model import AnytimeModel
from anytime_ar.sampling.noise import row_noise
from anytime_ar.sampling.options import BudgetOptions, DrawOptions
from anytime_ar.sampling.state import DrawState, Preview

__all__ = [
    "AnytimeModel",
    "Budget",
    "BudgetOptions",
    "CancelFlag",
    "ChoiceConfig",
    "DecodeBatch",
    "DrawOptions",
    "DrawState",
    "Preview",
    "choose_device",
    "load",
    "row_noise",
]
