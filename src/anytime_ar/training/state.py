"""All that the training of a stage changes: weights, their average, moments, counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anytime_ar.training.checkpoint import Checkpoint, optimizer_state, restore_optimizer
from anytime_ar.training.config import OptimizerConfig
from anytime_ar.training.optimizer import optimizer_for
from anytime_ar.training.progress import Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TrainingState:
    """Of one stage.

    Args:
        objective: what is trained.
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
        self.progress = Progress()
        self.module = fabric.to_device(objective)
        self.optimizer = optimizer_for(self.module, optimizer)
        self.average: AveragedModel | None = None
        if ema_decay is not None:
            self.average = AveragedModel(self.module, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))
        self._fabric = fabric

    @property
    def trained(self) -> nn.Module:
        """The weights that count: the moving average, where there is one."""
        return self.module if self.average is None else self.average.module

    def keep_best(self, loss: float) -> None:
        """Remember the weights that count, if no validation was better."""
        progress = self.progress
        if loss < progress.best_loss:
            progress.best_loss, progress.best_step = loss, progress.step
            progress.best = {
                name: value.detach().clone() for name, value in self.trained.state_dict().items()
            }

    def settle(self) -> None:
        """Leave the weights that count in the module."""
        if self.progress.best:
            self.module.load_state_dict(self.progress.best)
        elif self.average is not None:
            self.module.load_state_dict(self.average.module.state_dict())
        self.module.eval()

    def broken(self) -> str | None:
        """A weight that is not finite, if there is one."""
        weights = self.module.state_dict()
        return next((name for name, one in weights.items() if not one.isfinite().all()), None)

    def take(self) -> Checkpoint:
        """All of it."""
        groups = {
            "module": self.module.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "best": self.progress.best,
        }
        if self.average is not None:
            groups["average"] = self.average.state_dict()
        record = {
            "progress": self.progress.record(),
            "precision": self._fabric.strategy.precision.state_dict(),  # of a loss scaler, if any
        }
        return Checkpoint(groups, record)

    def put_back(self, checkpoint: Checkpoint) -> None:
        """Go on from there.

        Raises:
            RuntimeError, KeyError, TypeError: it is of another configuration.
        """
        groups, record = checkpoint
        self.module.load_state_dict(groups["module"])
        restore_optimizer(self.optimizer, groups.get("optimizer", {}))
        if self.average is not None:
            self.average.load_state_dict(groups["average"])
        best = self._fabric.to_device(groups.get("best", {}))
        self.progress = Progress.restore(record["progress"], best)
        self._fabric.strategy.precision.load_state_dict(record["precision"])
