"""Bundles: models on disk that describe themselves, with their measured curves."""

from __future__ import annotations

from anytime_ar.bundle.card import Card, DataCard
from anytime_ar.bundle.curve import Curve
from anytime_ar.bundle.format import (
    Bundle,
    attach_codebook,
    build_bundle,
    check_replaceable,
    find_bundle,
    fingerprint,
    load_bundle,
    refer,
    save_bundle,
    shipped_models,
)
from anytime_ar.bundle.references import PartName, WeightsReference

__all__ = [
    "Bundle",
    "Card",
    "Curve",
    "DataCard",
    "PartName",
    "WeightsReference",
    "attach_codebook",
    "build_bundle",
    "check_replaceable",
    "find_bundle",
    "fingerprint",
    "load_bundle",
    "refer",
    "save_bundle",
    "shipped_models",
]
