"""A run that takes a second and uses everything random: augmentation, dropout, noise, averages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from anytime_ar.autoencoder import NetworkConfig, ProjectionConfig, VectorQuantizerConfig
from anytime_ar.data import AugmentationConfig, DataConfig, DataSplits, Split, load_data
from anytime_ar.data.splits import MemorySplit
from anytime_ar.prior import PriorConfig
from anytime_ar.runtime.distributed import FULL_BATCH, BatchShard, DistributedContext
from anytime_ar.training import (
    AutoencoderTrainingConfig,
    DecoderGANConfig,
    OptimizerConfig,
    PriorTrainingConfig,
    TrainConfig,
)
from anytime_ar.training.checkpoint import Checkpoint, CheckpointManager
from anytime_ar.training.run_log import RunLog
from anytime_ar.training.trainer import Trainer

SAMPLES = 150
"""In the training split: no multiple of a batch, so that epochs end inside batches."""


def tiny(**changes: Any) -> TrainConfig:
    """A training run of 12 + 12 + 12 steps; checkpoints after every one of them."""
    moving = AugmentationConfig(flip=True, shift=1, rotate=5, scale=0.1)
    optimizer = OptimizerConfig(warmup_steps=3, learning_rate=3e-3)
    values: dict[str, Any] = {
        "name": "tiny",
        "augmentation": moving,
        "autoencoder": ProjectionConfig(
            code_length=4,
            code_width=3,
            quantizer=VectorQuantizerConfig(vocabulary=8),
            network=NetworkConfig(widths=(4, 8), blocks=1),
        ),
        "autoencoder_training": AutoencoderTrainingConfig(
            steps=12, batch_size=32, codebook_init_samples=64, ema_decay=0.8, optimizer=optimizer
        ),
        "decoder_gan": DecoderGANConfig(
            steps=12, batch_size=32, discriminator_width=4, ema_decay=0.8, optimizer=optimizer
        ),
        "prior": PriorConfig(layers=1, width=16, heads=2, dropout=0.2, label_dropout=0.3),
        "prior_training": PriorTrainingConfig(
            steps=12,
            batch_size=64,
            augmentation=moving,
            augmented_copies=2,
            code_noise=0.2,
            validate_every=5,
            ema_decay=0.8,
            optimizer=optimizer.model_copy(update={"kind": "muon"}),
        ),
        "precision": "bf16-mixed",
        "checkpoint_every_minutes": 1e-9,
        "log_every": 4,
    }
    return TrainConfig(**values | changes)


def small_digits() -> DataSplits:
    """The embedded set, cut to a few samples."""
    data = load_data(DataConfig())

    def cut(split: Split, count: int) -> Split:
        chunk = next(split.chunks(count))
        return MemorySplit(chunk.samples, chunk.labels, split.origin)

    return replace(data, train=cut(data.train, SAMPLES), validation=cut(data.validation, 40))


class ToyObjective(nn.Module):
    """Least squares with dropout; `spoil` may replace the loss of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.dropout = nn.Dropout(0.3)
        self.spoil: dict[int, float] = {}
        self.drawn: list[tuple[float, float]] = []
        """From the generator of each step, and from the global one that dropout uses."""

    def forward(
        self,
        x: Tensor,
        step: int,
        generator: torch.Generator | None = None,
        shard: BatchShard = FULL_BATCH,
    ) -> dict[str, Tensor]:
        noise = shard.local_slice(
            torch.rand(shard.global_batch_size(len(x)), 1, generator=generator)
        )
        self.drawn.append((float(noise[0]), float(torch.rand(()))))
        error = (self.linear(self.dropout(x)).float() - x.sum(1, keepdim=True) + 0.1 * noise) ** 2
        return {"loss": error.mean() * self.spoil.get(step, 1.0)}


class ToyStage:
    """A stage for tests of the loop itself."""

    name = "toy"

    def __init__(self, steps: int = 10, **options: Any) -> None:
        self.steps = steps
        self.validate_every: int = options.pop("validate_every", 5)
        self.patience: int | None = options.pop("patience", None)
        self.ema_decay: float | None = options.pop("ema_decay", None)
        self.validation: list[float] = options.pop("validation", [])
        self.optimizer = OptimizerConfig(**{"warmup_steps": 0, "learning_rate": 0.05} | options)
        self.toy = ToyObjective()
        self.toy.linear.weight.data = torch.tensor([[0.1, -0.2, 0.3]])
        nn.init.zeros_(self.toy.linear.bias)
        self.objective: nn.Module = self.toy
        self.batch_sizes = (8,)
        self.learned = 0
        self.asked: list[int] = []
        self.begun = 0
        self.position = 0
        self.weights: dict[int, Tensor] = {}
        """The weights at the begin of each step."""

    def initialize(self, fabric: Fabric) -> None:
        del fabric
        self.begun += 1

    def batch(self, step: int) -> tuple[Tensor, int]:
        self.asked.append(step)
        self.position += 1
        self.weights[step] = self.toy.linear.weight.detach().clone()
        return torch.randn(8, 3, generator=torch.Generator().manual_seed(self.position)), step

    def update_codebooks(self, objective: nn.Module, generator: torch.Generator) -> None:
        del generator
        assert objective is self.toy
        self.learned += 1

    def validate(self, objective: nn.Module, fabric: Fabric) -> dict[str, float]:
        del fabric
        assert not objective.training
        return {"loss": self.validation.pop(0) if self.validation else 1.0}

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def fit_toy(stage: ToyStage, folder: Path, **options: Any) -> CheckpointManager:
    """Train a stage in `folder`; returns its checkpoints."""
    values: dict[str, Any] = {
        "fabric": Fabric(accelerator="cpu", devices=1),
        "seed": 0,
        "checkpoints": CheckpointManager(folder, "toy"),
        "checkpoint_every_s": 1e9,
        "log_every": 5,
        "distributed": DistributedContext(),
    }
    with RunLog(folder / "log.jsonl", show_progress=False) as log:
        Trainer(stage, log=log, **values | options).fit()
    return (values | options)["checkpoints"]


def last(checkpoints: CheckpointManager) -> Checkpoint:
    """The last one of a stage."""
    return checkpoints.read(checkpoints.steps()[0])
