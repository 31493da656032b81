"""Training of an ordered autoencoder, its decoder GAN and its prior, up to the bundle."""

from __future__ import annotations

from anytime_ar.training.config import (
    AutoencoderTrainingConfig,
    DecoderGANConfig,
    DistributedConfig,
    OptimizerConfig,
    PriorTrainingConfig,
    TrainConfig,
    torchrun_config,
)
from anytime_ar.training.precision import read_autotuned_settings
from anytime_ar.training.ray_launcher import RayTrainConfig, train_on_ray
from anytime_ar.training.run import train

__all__ = [
    "AutoencoderTrainingConfig",
    "DecoderGANConfig",
    "DistributedConfig",
    "OptimizerConfig",
    "PriorTrainingConfig",
    "RayTrainConfig",
    "TrainConfig",
    "read_autotuned_settings",
    "torchrun_config",
    "train",
    "train_on_ray",
]
