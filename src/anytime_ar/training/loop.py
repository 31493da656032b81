"""The training loop: one stage of a run, from its first or its last checkpointed step to its end.

All randomness of a step follows from (seed, stage, step), so a run that was interrupted and resumed
is the run that was not, bit for bit, and a checkpoint needs no generator states.
"""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anytime_ar.data.seeding import generator_for, stable_hash
from anytime_ar.errors import InputError, TrainingError
from anytime_ar.interrupt import interrupts_held
from anytime_ar.training.checkpoint import (
    optimizer_state,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)
from anytime_ar.training.config import OptimizerConfig
from anytime_ar.training.log import RunLog
from anytime_ar.training.objectives import Losses
from anytime_ar.training.optimizer import learning_rate, optimizer_for
from anytime_ar.training.progress import Progress

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

    def begin(self, fabric: Fabric) -> None:
        """Prepare weights before the first step; not called when resuming."""

    def batch(self, step: int) -> tuple[Any, ...]:
        """Arguments of the objective, but for the generator, which comes last."""

    def validate(self, objective: nn.Module, fabric: Fabric) -> dict[str, float]:
        """Figures for the log; `loss` is the one that early stopping watches."""

    def state_dict(self) -> dict[str, Any]:
        """Where the data stands, as JSON can hold it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


@contextmanager
def seeded(*parts: int | str) -> Iterator[torch.Generator]:
    """Randomness named by its parts: a CPU generator, and torch's own global state (which
    initialization and dropout use) set to match and put back afterwards."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # named, or it warns of many
        torch.manual_seed(stable_hash(*parts))
        yield generator_for(*parts)


class Trainer:
    """Trains one stage, from where its checkpoint stands to its end.

    Args:
        stage: what to train.
        fabric: device and precision.
        seed: of everything random.
        checkpoint: file to keep the state in; taken up if it is there already.
        checkpoint_every_s: seconds between two writes.
        log_every: steps between two reports.
        log: gets the reports.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        fabric: Fabric,
        seed: int,
        checkpoint: Path,
        checkpoint_every_s: float,
        log_every: int,
        log: RunLog,
    ) -> None:
        self.stage, self.fabric, self.seed, self.log = stage, fabric, seed, log
        self.checkpoint, self.log_every = checkpoint, log_every
        self.checkpoint_every_s = checkpoint_every_s
        self.progress = Progress()
        self.module = fabric.to_device(stage.objective)
        self.optimizer = optimizer_for(self.module, stage.optimizer)
        self.average: AveragedModel | None = None
        if stage.ema_decay is not None:
            average = get_ema_multi_avg_fn(stage.ema_decay)
            self.average = AveragedModel(self.module, multi_avg_fn=average)

    def fit(self) -> None:
        """Train to the end; the stage's objective holds the result, in evaluation mode.

        Raises:
            TrainingError: the loss is not finite or has diverged; the last good checkpoint stays.
            InputError: the checkpoint does not fit.
        """
        if self.checkpoint.exists():
            self._restore()
        else:
            with seeded(self.seed, self.stage.name, "begin"):
                self.stage.begin(self.fabric)
        if not self.progress.finished:
            self._train()
            self.progress.finished = True
            self._save()
        self._settle()

    def _train(self) -> None:
        stage, progress = self.stage, self.progress
        wrapped, optimizer = self.fabric.setup(self.module, self.optimizer)
        last_save = time.perf_counter()
        begin = last_save - progress.seconds
        recent: list[Losses] = []
        with (
            interrupts_held() as interrupted,
            self.log.progress(stage.name, stage.steps, progress.step) as bar,
        ):
            while progress.step < stage.steps and not self._exhausted():
                recent.append(self._step(wrapped, optimizer))
                progress.step += 1
                progress.seconds = time.perf_counter() - begin
                validating = _due(progress.step, stage.validate_every, stage.steps)
                if validating or _due(progress.step, self.log_every, stage.steps):
                    bar.update(progress.step, self._report(recent))
                    recent = []
                if validating:
                    self._validate()
                if (
                    interrupted.is_set()
                    or time.perf_counter() - last_save > self.checkpoint_every_s
                ):
                    self._report(recent)  # a checkpoint must be good
                    recent = []
                    self._save()
                    last_save = time.perf_counter()
                if interrupted.is_set():
                    raise KeyboardInterrupt

    def _step(self, wrapped: nn.Module, optimizer: torch.optim.Optimizer) -> Losses:
        step, options = self.progress.step, self.stage.optimizer
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(options, step, self.stage.steps)
        arguments = self.fabric.to_device(self.stage.batch(step))
        wrapped.train()
        with seeded(self.seed, self.stage.name, step) as generator:
            losses: Losses = wrapped(*arguments, generator)
        optimizer.zero_grad()
        self.fabric.backward(losses["loss"])
        # Gradients that are not finite show in the next loss; asking now would wait for a GPU.
        self.fabric.clip_gradients(
            wrapped, optimizer, max_norm=options.clip_norm, error_if_nonfinite=False
        )
        optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.module)
        return {name: value.detach() for name, value in losses.items()}

    def _report(self, recent: list[Losses]) -> dict[str, float]:
        """Mean losses since the last report, to the log; refuses what has gone wrong."""
        if not recent:
            return {}
        series = {
            name: torch.stack([losses[name] for losses in recent]).cpu().double()  # [steps]
            for name in recent[0]
        }
        complaint = self.progress.watch(series["loss"])
        if complaint is not None:
            raise self._failure(complaint)
        means = {name: float(values.mean()) for name, values in series.items()}
        progress = self.progress
        self.log.write(stage=self.stage.name, step=progress.step, seconds=progress.seconds, **means)
        return means

    def _failure(self, complaint: str) -> TrainingError:
        kept = (
            f"the checkpoint in {self.checkpoint} is from before"
            if self.checkpoint.exists()
            else "no checkpoint had been written yet"
        )
        return TrainingError(
            f"{self.stage.name}: {complaint}; {kept}; lower the learning rate "
            f"(now at most {self.stage.optimizer.learning_rate:g}) and train anew"
        )

    def _validate(self) -> None:
        stage, progress = self.stage, self.progress
        figures = stage.validate(self._trained().eval(), self.fabric)
        if not math.isfinite(figures["loss"]):
            raise self._failure(f"validation loss is {figures['loss']} after step {progress.step}")
        self.log.write(
            stage=stage.name,
            step=progress.step,
            **{f"validation_{name}": value for name, value in figures.items()},
        )
        if stage.patience is not None and figures["loss"] < progress.best_loss:
            progress.best_loss, progress.best_step = figures["loss"], progress.step
            progress.best = {
                name: value.detach().clone() for name, value in self._trained().state_dict().items()
            }

    def _exhausted(self) -> bool:
        """Whether validation has not improved for as long as patience lasts."""
        if self.stage.patience is None:
            return False
        waited = self.progress.step - self.progress.best_step
        return waited >= self.stage.patience * self.stage.validate_every

    def _trained(self) -> nn.Module:
        """The weights that count: the moving average, where there is one."""
        return self.module if self.average is None else self.average.module

    def _settle(self) -> None:
        """Leave the weights that count in the objective."""
        if self.progress.best:
            self.module.load_state_dict(self.progress.best)
        elif self.average is not None:
            self.module.load_state_dict(self.average.module.state_dict())
        self.module.eval()

    def _save(self) -> None:
        weights = self.module.state_dict()
        broken = [name for name, weight in weights.items() if not weight.isfinite().all()]
        if broken:
            raise self._failure(f"{broken[0]} is not finite after step {self.progress.step}")
        groups = {
            "module": weights,
            "optimizer": optimizer_state(self.optimizer),
            "best": self.progress.best,
        }
        if self.average is not None:
            groups["average"] = self.average.state_dict()
        record = {
            "stage": self.stage.name,
            "progress": self.progress.record(),
            "data": self.stage.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),  # of a loss scaler, if any
        }
        write_checkpoint(self.checkpoint, groups, record)

    def _restore(self) -> None:
        groups, record = read_checkpoint(self.checkpoint)
        try:
            self.module.load_state_dict(groups["module"])
            restore_optimizer(self.optimizer, groups.get("optimizer", {}))
            if self.average is not None:
                self.average.load_state_dict(groups["average"])
            best = self.fabric.to_device(groups.get("best", {}))
            self.progress = Progress.restore(record["progress"], best)
            self.stage.load_state_dict(record["data"])
            self.fabric.strategy.precision.load_state_dict(record["precision"])
        except (RuntimeError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.checkpoint} does not fit this configuration "
                f"({textwrap.shorten(str(error), 200)}); "  # torch lists every weight
                "resume with the configuration of the interrupted run"
            ) from error


def _due(step: int, every: int, steps: int) -> bool:
    return step % every == 0 or step == steps
