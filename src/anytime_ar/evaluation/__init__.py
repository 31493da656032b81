"""Evaluation: quality and cost against the number of codes, as tables, JSON and plots."""

from __future__ import annotations

from anytime_ar.bundle.curve import (
    Baselines,
    Curve,
    CurvePoint,
    DistributionMetrics,
    PCAPoint,
    QualityPoint,
    near_lossless_codes,
    psnr,
)
from anytime_ar.evaluation.compare import (
    Candidate,
    Comparison,
    FixedLengthModels,
    compare,
    comparison_table,
    write_comparison,
)
from anytime_ar.evaluation.evaluator import estimate_duration_s, evaluate, resolve_budgets
from anytime_ar.evaluation.feature_extractor import (
    AnyFeatureExtractor,
    FeatureExtractor,
    FeatureExtractorConfig,
    ModuleFeatureExtractor,
    TorchScriptFeatureExtractor,
    TrainedFeatureExtractor,
    classifier_accuracy,
    load_feature_extractor,
    save_feature_extractor,
    train_feature_extractor,
)
from anytime_ar.evaluation.metrics.distribution import ReferenceDistribution
from anytime_ar.evaluation.metrics.pca import PCA, fit_pca
from anytime_ar.evaluation.metrics.reconstruction import Metric
from anytime_ar.evaluation.plots import plot_curve
from anytime_ar.evaluation.report import curve_table, write_report

__all__ = [
    "PCA",
    "AnyFeatureExtractor",
    "Baselines",
    "Candidate",
    "Comparison",
    "Curve",
    "CurvePoint",
    "DistributionMetrics",
    "FeatureExtractor",
    "FeatureExtractorConfig",
    "FixedLengthModels",
    "Metric",
    "ModuleFeatureExtractor",
    "PCAPoint",
    "QualityPoint",
    "ReferenceDistribution",
    "TorchScriptFeatureExtractor",
    "TrainedFeatureExtractor",
    "classifier_accuracy",
    "compare",
    "comparison_table",
    "curve_table",
    "estimate_duration_s",
    "evaluate",
    "fit_pca",
    "load_feature_extractor",
    "near_lossless_codes",
    "plot_curve",
    "psnr",
    "resolve_budgets",
    "save_feature_extractor",
    "train_feature_extractor",
    "write_comparison",
    "write_report",
]
