"""Stages of a training run, and the protocol by which the training loop uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from anytime_ar.training.config import OptimizerConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Stage(Protocol):
    """A part of a training run: an objective, its batches and its validation."""

    name: str
    """Name of the stage, in the log and in the names of its checkpoints."""
    steps: int
    """Number of training steps, at most."""
    validate_every: int
    """Steps between two validations; one more validation follows the last step."""
    patience: int | None
    """Validations without a better loss that end the stage, which then restores its best weights.

    None: train for all steps and use the last weights.
    """
    ema_decay: float | None
    """Decay of the moving average of the weights, which replaces them; None: no average."""
    optimizer: OptimizerConfig
    """Optimizer of the objective and its schedule."""
    objective: nn.Module
    """Module with the initial weights, and with the trained weights at the end.

    With sharded weights, the loop trains a copy of it.
    """
    batch_sizes: tuple[int, ...]
    """Samples in each kind of batch, over all processes."""

    def initialize(self, fabric: Fabric) -> None:  # noqa: ARG002
        """Initialise the weights before the first step; not called when a run resumes."""
        return  # nothing by default

    def batch(self, step: int) -> tuple[Any, ...]:
        """Return this process's shard of the batch of a step.

        Returns:
            The arguments of the objective, without the generator and the shard, which come last.
        """

    def timing_batches(self, batch_size: int) -> list[tuple[Any, ...]]:
        """Return batches for timing, as costly as those of training, without reading the data.

        Args:
            batch_size: Samples in a batch.

        Returns:
            A batch for each kind of step, as often as that kind occurs.
        """

    def update_codebooks(
        self,
        objective: nn.Module,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> None:
        """Update the codebooks by the statistics of the last batch, before the optimizer step."""
        return  # nothing by default

    def validate(self, objective: nn.Module, fabric: Fabric) -> dict[str, float]:
        """Return validation figures for the log; early stopping compares the one named `loss`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data, as values that JSON can hold."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position in the data from a `state_dict`."""


ENCODE_BATCH_SIZE = 256
"""Samples that are encoded in one batch."""


Losses = dict[str, Tensor]
"""Scalar losses by name; training minimises `loss` and logs the others."""
