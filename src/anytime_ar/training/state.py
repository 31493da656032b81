"""State of a stage in training: weights, their moving average, optimizer state, counters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anytime_ar.training.checkpoint import Checkpoint, StateDict
from anytime_ar.training.config import OptimizerConfig
from anytime_ar.training.fsdp import (
    apply_fsdp,
    copy_full_state,
    device_mesh,
    gather_full_state,
    shard_state,
)
from anytime_ar.training.optimizer import (
    build_optimizer,
    load_optimizer_state,
    optimizer_state_tensors,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TrainingState:
    """State of one stage, which a checkpoint saves and restores.

    Args:
        objective: Module to train, on the device.
        optimizer: Configuration of the optimizer.
        ema_decay: Decay of the moving average of the weights, which replaces them in validation and
            in the result; None: no average.
        fabric: Device, precision and strategy.
    """

    def __init__(
        self,
        objective: nn.Module,
        optimizer: OptimizerConfig,
        ema_decay: float | None,
        fabric: Fabric,
    ) -> None:
        """Shard the module if the strategy asks for it, and build optimizer and average."""
        self.progress = StageProgress()
        """Counters of the stage and its best weights."""
        self._objective, self._fabric = objective, fabric
        mesh = device_mesh(fabric)
        self.is_replicated = mesh is None
        """Whether each process holds all weights and trains the objective itself.

        Otherwise it trains a sharded copy. The objective waits on the CPU and receives the full
        weights for validation and at the end.
        """
        self.module = objective if self.is_replicated else deepcopy(objective.cpu())
        """Module in training: the objective, or its sharded copy."""
        self.ema_model: AveragedModel | None = None
        """Moving average of the weights; None: no average."""
        if ema_decay is not None:
            self.ema_model = AveragedModel(objective, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))
        if mesh is not None:
            apply_fsdp(self.module, mesh)
            if self.ema_model is not None:
                apply_fsdp(self.ema_model.module, mesh)
        self.optimizer = build_optimizer(self.module, optimizer)

    @property
    def _evaluated_module(self) -> nn.Module:
        return self.module if self.ema_model is None else self.ema_model.module

    @contextmanager
    def evaluation_weights(self) -> Iterator[nn.Module]:
        """Provide the weights for evaluation: their moving average, or the last ones.

        Yields:
            The objective in evaluation mode, with full weights, so that processes can use it
            independently of each other.
        """
        if self.is_replicated:
            yield self._evaluated_module.eval()
            return
        copy_full_state(
            self._objective.to(self._fabric.device), self._evaluated_module.state_dict()
        )
        yield self._objective.eval()
        self._objective.cpu()

    def keep_best(self, loss: float) -> None:
        """Save the weights for evaluation if the validation loss is the lowest so far."""
        progress = self.progress
        if loss < progress.best_loss:
            progress.best_loss, progress.best_step = loss, progress.step
            progress.best = {
                name: value.detach().clone()
                for name, value in self._evaluated_module.state_dict().items()
            }

    def load_final_weights(self) -> None:
        """Load the best, or else the last, weights into the objective, in evaluation mode."""
        self._objective.to(self._fabric.device)
        copy_full_state(self._objective, self.progress.best or self._evaluated_module.state_dict())
        self._objective.eval()

    def to_checkpoint(self) -> Checkpoint:
        """Gather the full state for a checkpoint.

        All processes must call this. Only rank zero gets the tensors.
        """
        groups = {
            "module": self.module.state_dict(),
            "optimizer": optimizer_state_tensors(self.optimizer),
            "best": self.progress.best,
        }
        if self.ema_model is not None:
            groups["average"] = self.ema_model.state_dict()
        keep = self._fabric.is_global_zero
        groups = {name: gather_full_state(state, keep=keep) for name, state in groups.items()}
        record = {
            "progress": self.progress.to_record(),
            "precision": self._fabric.strategy.precision.state_dict(),  # the loss scaler, if any
        }
        return Checkpoint(groups, record)

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Restore the state from a checkpoint.

        Raises:
            RuntimeError: A tensor is missing or has another shape, so the configuration differs.
            KeyError: The checkpoint lacks an item, so the configuration differs.
            TypeError: The record has other items, so the configuration differs.
        """
        groups, record = checkpoint
        self._load(self.module, groups["module"])
        load_optimizer_state(self.optimizer, groups.get("optimizer", {}))
        if self.ema_model is not None:
            self._load(self.ema_model, groups["average"])
        best = shard_state(groups.get("best", {}), self._evaluated_module.state_dict())
        self.progress = StageProgress.from_record(record["progress"], self._fabric.to_device(best))
        self._fabric.strategy.precision.load_state_dict(record["precision"])

    @staticmethod
    def _load(module: nn.Module, state: StateDict) -> None:
        module.load_state_dict(shard_state(state, module.state_dict()))


DIVERGENCE_RATIO = 100.0
"""Ratio of the mean loss to that of the untrained model above which training has diverged.

In healthy runs the loss also rises, but far less: quantizer terms grow while the codebook adapts,
and the error jumps when the second stage of the paper begins to truncate.
"""


@dataclass
class StageProgress:
    """Counters of a stage and its best weights, saved with every checkpoint."""

    step: int = 0
    """Number of steps done so far."""
    seconds: float = 0.0
    """Seconds in the training loop, over all resumptions."""
    first_loss: float = math.inf
    """Loss of step 1, by the untrained model."""
    best_loss: float = math.inf
    """Lowest validation loss, in stages with early stopping."""
    best_step: int = 0
    """Number of steps before the validation with the lowest loss."""
    best: StateDict = field(default_factory=dict)
    """Weights for evaluation at `best_step`; empty without early stopping."""

    def check_losses(self, losses: Tensor) -> str | None:
        """Return why the last losses end the training, or None if they are healthy.

        Args:
            losses: Losses of the last n steps, float64 [n].
        """
        broken = (~losses.isfinite()).nonzero()  # [broken, 1]
        if len(broken):
            at = int(broken[0])
            return f"the loss is {float(losses[at])} at step {self.step - len(losses) + at + 1}"
        if self.step == len(losses):
            self.first_loss = float(losses[0])
        mean = float(losses.mean())
        if mean > DIVERGENCE_RATIO * self.first_loss:
            return (
                f"the loss has diverged to {mean:.4g} at step {self.step}, "
                f"from {self.first_loss:.4g} at step 1"
            )
        return None

    def to_record(self) -> dict[str, Any]:
        """Return the counters as values that JSON can hold, without the weights."""
        numbers = {key: value for key, value in vars(self).items() if key != "best"}
        return {key: None if value == math.inf else value for key, value in numbers.items()}

    @classmethod
    def from_record(cls, record: dict[str, Any], best: StateDict) -> StageProgress:
        """Rebuild the progress from the values of `to_record` and the best weights."""
        numbers: dict[str, Any] = {
            key: math.inf if value is None else value for key, value in record.items()
        }
        return cls(**numbers, best=best)
