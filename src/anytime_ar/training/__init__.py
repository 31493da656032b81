"""Training: the ordered autoencoder, its sharpening, then the prior, to a bundle."""

from __future__ import annotations

from anytime_ar.training.config import (
    AutoencoderTrainingConfig,
    OptimizerConfig,
    PriorTrainingConfig,
    SharpeningConfig,
    TrainConfig,
)
from anytime_ar.training.decisions import read_decisions
from anytime_ar.training.processes import Processes, is_first_process, launched
from anytime_ar.training.ray_driver import Workers, train_on_ray
from anytime_ar.training.run import train

__all__ = [
    "AutoencoderTrainingConfig",
    "OptimizerConfig",
    "PriorTrainingConfig",
    "Processes",
    "SharpeningConfig",
    "TrainConfig",
    "Workers",
    "is_first_process",
    "launched",
    "read_decisions",
    "train",
    "train_on_ray",
]
