"""Evaluation: quality and cost against the number of codes, as a table, JSON and pictures."""

from __future__ import annotations

from anytime_ar.curve import (
    BaselinePoint,
    Baselines,
    Curve,
    CurvePoint,
    PCAPoint,
    SetQuality,
    lossless_codes,
    psnr,
)
from anytime_ar.evaluation.classifier import FeatureConfig, FeatureNetwork
from anytime_ar.evaluation.comparison import Comparison, Contender, Dedicated, compare
from anytime_ar.evaluation.comparison_report import comparison_table, write_comparison
from anytime_ar.evaluation.features import (
    Features,
    accuracy,
    load_features,
    save_features,
    train_features,
)
from anytime_ar.evaluation.measure import budgets_of, evaluate
from anytime_ar.evaluation.pca import PCA, fit_pca
from anytime_ar.evaluation.plots import draw_curve
from anytime_ar.evaluation.reference import Reference
from anytime_ar.evaluation.report import table, write_report
from anytime_ar.evaluation.scripted import ScriptedFeatures
from anytime_ar.evaluation.sheets import (
    as_pictures,
    contact_sheet,
    shown_budgets,
    write_contact_sheet,
    write_sheets,
)

__all__ = [
    "PCA",
    "BaselinePoint",
    "Baselines",
    "Comparison",
    "Contender",
    "Curve",
    "CurvePoint",
    "Dedicated",
    "FeatureConfig",
    "FeatureNetwork",
    "Features",
    "PCAPoint",
    "Reference",
    "ScriptedFeatures",
    "SetQuality",
    "accuracy",
    "as_pictures",
    "budgets_of",
    "compare",
    "comparison_table",
    "contact_sheet",
    "draw_curve",
    "evaluate",
    "fit_pca",
    "load_features",
    "lossless_codes",
    "psnr",
    "save_features",
    "shown_budgets",
    "table",
    "train_features",
    "write_comparison",
    "write_contact_sheet",
    "write_report",
    "write_sheets",
]
