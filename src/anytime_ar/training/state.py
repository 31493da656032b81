"""All that the training of a stage changes: weights, their average, moments, counters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anytime_ar.training.checkpoint import Checkpoint, State
from anytime_ar.training.config import OptimizerConfig
from anytime_ar.training.optimizer import optimizer_for, optimizer_state, restore_optimizer
from anytime_ar.training.progress import Progress
from anytime_ar.training.sharding import cut_state, fill, gathered, mesh_of, shard

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
        self.progress = Progress()
        self._objective, self._fabric = objective, fabric
        mesh = mesh_of(fabric)
        self.is_whole = mesh is None
        """Whether each process has all weights, and trains the objective itself; else it trains a
        copy in shards, and the objective, out of the way on the CPU, gets what is to be judged or
        used."""
        self.module = objective if self.is_whole else deepcopy(objective.cpu())
        self.average: AveragedModel | None = None
        if ema_decay is not None:
            self.average = AveragedModel(objective, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))
        if mesh is not None:
            shard(self.module, mesh)
            if self.average is not None:
                shard(self.average.module, mesh)
        self.optimizer = optimizer_for(self.module, optimizer)

    @property
    def _trained(self) -> nn.Module:
        return self.module if self.average is None else self.average.module

    @contextmanager
    def judged(self) -> Iterator[nn.Module]:
        """The weights that count, which are the moving average where there is one: whole, for
        processes to use at their own pace, and in evaluation mode."""
        if self.is_whole:
            yield self._trained.eval()
            return
        fill(self._objective.to(self._fabric.device), self._trained.state_dict())
        yield self._objective.eval()
        self._objective.cpu()

    def keep_best(self, loss: float) -> None:
        """Remember the weights that count, if no validation was better."""
        progress = self.progress
        if loss < progress.best_loss:
            progress.best_loss, progress.best_step = loss, progress.step
            progress.best = {
                name: value.detach().clone() for name, value in self._trained.state_dict().items()
            }

    def settle(self) -> None:
        """Leave the weights that count in the objective, in evaluation mode."""
        self._objective.to(self._fabric.device)
        fill(self._objective, self.progress.best or self._trained.state_dict())
        self._objective.eval()

    def take(self) -> Checkpoint:
        """All of it, whole, for the first process; others have to ask as well."""
        groups = {
            "module": self.module.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "best": self.progress.best,
        }
        if self.average is not None:
            groups["average"] = self.average.state_dict()
        keep = self._fabric.is_global_zero
        groups = {name: gathered(state, keep=keep) for name, state in groups.items()}
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
        self._load(self.module, groups["module"])
        restore_optimizer(self.optimizer, groups.get("optimizer", {}))
        if self.average is not None:
            self._load(self.average, groups["average"])
        best = cut_state(groups.get("best", {}), self._trained.state_dict())
        self.progress = Progress.restore(record["progress"], self._fabric.to_device(best))
        self._fabric.strategy.precision.load_state_dict(record["precision"])

    @staticmethod
    def _load(module: nn.Module, state: State) -> None:
        module.load_state_dict(cut_state(state, module.state_dict()))
