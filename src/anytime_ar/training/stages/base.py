"""What the training loop asks of a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from anytime_ar.training.config import OptimizerConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Stage(Protocol):
    """What the loop trains: an objective, its batches and its validation."""

    name: str
    steps: int
    validate_every: int
    """Steps between two validations; the last step is always followed by one."""
    patience: int | None
    """Validations without a better loss that end the stage, which then takes its best weights;
    None: all steps and the last weights."""
    ema_decay: float | None
    """Of the moving average of the weights that counts in their place; None: no average."""
    optimizer: OptimizerConfig
    objective: nn.Module
    """To begin from, and in the end the result; between them, another one may be trained."""
    batch_sizes: tuple[int, ...]
    """Samples of its batches, of all processes together."""

    def initialize(self, fabric: Fabric) -> None:
        """Prepare weights before the first step; not called when resuming."""

    def batch(self, step: int) -> tuple[Any, ...]:
        """This process's part of a batch: arguments of the objective, but for the generator and
        the part, which come last."""

    def timing_batches(self, batch_size: int) -> list[tuple[Any, ...]]:
        """Return batches that take as long as those of training, and take nothing from the data.

        Args:
            batch_size: samples of a batch; one batch for each kind of step, as often as it occurs.
        """

    def update_codebooks(self, objective: nn.Module, generator: torch.Generator) -> None:
        """What an objective learns from a batch beside the gradient, before the step of the
        optimizer."""

    def validate(self, objective: nn.Module, fabric: Fabric) -> dict[str, float]:
        """Figures for the log; `loss` is the one that early stopping watches."""

    def state_dict(self) -> dict[str, Any]:
        """Where the data stands, as JSON can hold it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


ENCODE_BATCH_SIZE = 256


Losses = dict[str, Tensor]
"""Scalars by name; `loss` is the one to minimize, the others are for the log."""
