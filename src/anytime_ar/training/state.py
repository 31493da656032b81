"""All that the training of a stage changes: weights, their average, moments, counters."""

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
    """Of one stage.

    Args:
        objective: what is trained, on the device.
        optimizer: how.
        ema_decay: of the moving average of the weights that counts in their place; None: no
            average.
        fabric: device and precision.
    """

    def __init__(
        self,
        objective: nn.Module,
        optimizer: OptimizerConfig,
        ema_decay: float | None,
        fabric: Fabric,
    ) -> None:
        self.progress = StageProgress()
        self._objective, self._fabric = objective, fabric
        mesh = device_mesh(fabric)
        self.is_replicated = mesh is None
        """Whether each process has all weights, and trains the objective itself; else it trains a
        copy in shards, and the objective, out of the way on the CPU, gets what is to be judged or
        used."""
        self.module = objective if self.is_replicated else deepcopy(objective.cpu())
        self.ema_model: AveragedModel | None = None
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
        """The weights that count, which are the moving average where there is one: whole, for
        processes to use at their own pace, and in evaluation mode."""
        if self.is_replicated:
            yield self._evaluated_module.eval()
            return
        copy_full_state(
            self._objective.to(self._fabric.device), self._evaluated_module.state_dict()
        )
        yield self._objective.eval()
        self._objective.cpu()

    def keep_best(self, loss: float) -> None:
        """Remember the weights that count, if no validation was better."""
        progress = self.progress
        if loss < progress.best_loss:
            progress.best_loss, progress.best_step = loss, progress.step
            progress.best = {
                name: value.detach().clone()
                for name, value in self._evaluated_module.state_dict().items()
            }

    def load_final_weights(self) -> None:
        """Leave the weights that count in the objective, in evaluation mode."""
        self._objective.to(self._fabric.device)
        copy_full_state(self._objective, self.progress.best or self._evaluated_module.state_dict())
        self._objective.eval()

    def to_checkpoint(self) -> Checkpoint:
        """All of it, whole, for the first process; others have to ask as well."""
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
            "precision": self._fabric.strategy.precision.state_dict(),  # of a loss scaler, if any
        }
        return Checkpoint(groups, record)

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Go on from there.

        Raises:
            RuntimeError, KeyError, TypeError: it is of another configuration.
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
"""A mean loss this many times that of the untrained model will not come back. Far less happens in
sound runs: quantizer terms grow while a random codebook is found, and the error jumps when the
paper's second stage begins to truncate."""


@dataclass
class StageProgress:
    """Counters of a stage and its best weights; saved with every checkpoint."""

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Spent in the loop, over all resumptions."""
    first_loss: float = math.inf
    """Of step 1, by the untrained model."""
    best_loss: float = math.inf
    """Lowest validation loss, where validation ends the stage."""
    best_step: int = 0
    best: StateDict = field(default_factory=dict)
    """Weights of `best_step`."""

    def check_losses(self, losses: Tensor) -> str | None:
        """What is wrong with the losses float64 [n] of the last n steps, if anything is."""
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
        """All but the weights, as JSON can hold it."""
        numbers = {key: value for key, value in vars(self).items() if key != "best"}
        return {key: None if value == math.inf else value for key, value in numbers.items()}

    @classmethod
    def from_record(cls, record: dict[str, Any], best: StateDict) -> StageProgress:
        """What `to_record` wrote, with the weights again."""
        numbers: dict[str, Any] = {
            key: math.inf if value is None else value for key, value in record.items()
        }
        return cls(**numbers, best=best)
