"""What a configuration file describes: a training run and how its samples are judged."""

from __future__ import annotations

from anytime_ar.evaluation import FeatureExtractorConfig
from anytime_ar.training import TrainConfig


class Experiment(TrainConfig):
    """A training run, and the classifier whose features judge its samples."""

    features: FeatureExtractorConfig = FeatureExtractorConfig()
