"""Anytime sampling: draw codes until a budget ends, and decode whatever there is."""

from __future__ import annotations

from anytime_ar.sampling.budget import Budget
from anytime_ar.sampling.choice import ChoiceConfig
from anytime_ar.sampling.draw import draw
from anytime_ar.sampling.model import AnytimeModel, DrawOptions, Preview, choose_device, load
from anytime_ar.sampling.noise import row_noise

__all__ = [
    "AnytimeModel",
    "Budget",
    "ChoiceConfig",
    "DrawOptions",
    "Preview",
    "choose_device",
    "draw",
    "load",
    "row_noise",
]
