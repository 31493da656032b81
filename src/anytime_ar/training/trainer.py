"""Training loop of a stage, from its first step or its last checkpoint to its end.

All randomness of a step derives from (seed, stage, step). So a resumed run equals an uninterrupted
one bit for bit, and checkpoints need no generator states.
"""

from __future__ import annotations

import math
import textwrap
import time
from typing import TYPE_CHECKING

import torch

from anytime_ar.errors import InputError, TrainingError
from anytime_ar.legacy import STAGES
from anytime_ar.runtime.distributed import DistributedContext, split_microbatches
from anytime_ar.runtime.process_exit import end_if_exiting
from anytime_ar.runtime.seeding import generator_for, seeded
from anytime_ar.runtime.signals import defer_interrupts
from anytime_ar.training.checkpoint import Checkpoint, CheckpointManager
from anytime_ar.training.optimizer import learning_rate_at
from anytime_ar.training.run_log import RunLog
from anytime_ar.training.stages import Losses, Stage
from anytime_ar.training.state import TrainingState

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule


class Trainer:
    """The training loop of one stage.

    Args:
        stage: Stage to train.
        fabric: Device, precision and strategy.
        seed: Seed of all randomness.
        checkpoints: Checkpoints of the stage; training resumes from the last one, if there is one.
        checkpoint_every_s: Seconds between two checkpoints.
        log_every: Steps between two lines of the log.
        log: Log of the run.
        distributed: The processes of the run.
        gradient_accumulation_steps: Microbatches into which each process splits its batch shard.

    Raises:
        InputError: A batch cannot be split evenly between processes and microbatches.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        fabric: Fabric,
        seed: int,
        checkpoints: CheckpointManager,
        checkpoint_every_s: float,
        log_every: int,
        log: RunLog,
        distributed: DistributedContext,
        gradient_accumulation_steps: int = 1,
    ) -> None:
        """Check that every batch splits evenly."""
        self.stage, self.fabric, self.seed, self.log = stage, fabric, seed, log
        self.distributed = distributed
        self.gradient_accumulation_steps = gradient_accumulation_steps
        # Random streams keep their names, so that a seed trains the same weights in every version.
        self._stream = STAGES.get(stage.name, stage.name)
        self._check_batch_sizes(distributed.world_size * gradient_accumulation_steps)
        self.checkpoints, self.log_every = checkpoints, log_every
        self.checkpoint_every_s = checkpoint_every_s
        self.state: TrainingState  # built by `fit`, after the weights are initialised

    def _check_batch_sizes(self, num_shards: int) -> None:
        """Refuse uneven batch shards, whose mean loss would not be that of the batch."""
        for size in self.stage.batch_sizes:
            if size % num_shards:
                uneven = (
                    f"{self.stage.name}: a batch of {size} cannot be cut into {num_shards} equal "
                    "parts, one for each process and gradient accumulation step; choose another "
                    "batch_size, devices or gradient_accumulation_steps"
                )
                raise self.distributed.same_error_on_all_ranks(InputError(uneven))

    def fit(self) -> None:
        """Train the stage to its end and leave the result in its objective, in evaluation mode.

        Raises:
            TrainingError: The loss is not finite or has diverged; the last good checkpoint stays.
            InputError: All checkpoints are damaged, the last one does not fit the configuration, or
                a new one cannot be written.
        """
        stage = self.stage
        step = self.distributed.run_on_rank_zero(lambda: self.checkpoints.latest(self.log.notify))
        stage.objective.to(self.fabric.device)
        if step is None:
            with seeded(self.seed, self._stream, "begin"):
                stage.initialize(self.fabric)
        self.state = TrainingState(stage.objective, stage.optimizer, stage.ema_decay, self.fabric)
        if step is not None:
            self._resume_from(step)
        if not self._is_finished():
            self._train()
            self._save_checkpoint()
        self.distributed.run_on_rank_zero(lambda: self.checkpoints.prune(1))
        self.state.load_final_weights()

    def _resume_from(self, step: int) -> None:
        checkpoint = self.checkpoints.read(step)
        try:
            self.state.load_checkpoint(checkpoint)
            self.stage.load_state_dict(checkpoint.record["data"])
        except (RuntimeError, KeyError, TypeError) as error:
            misfit = InputError(
                f"{self.checkpoints.path(step)} does not fit this configuration "
                f"({textwrap.shorten(str(error), 200)}); "  # torch lists every weight
                "resume with the configuration of the interrupted run"
            )
            raise self.distributed.same_error_on_all_ranks(misfit) from error

    def _train(self) -> None:
        stage, progress = self.stage, self.state.progress
        wrapped, optimizer = self.fabric.setup(self.state.module, self.state.optimizer)
        last_save = time.perf_counter()
        begin = last_save - progress.seconds
        recent: list[Losses] = []
        with (
            defer_interrupts(term=True) as interrupted,
            self.log.progress_bar(stage.name, stage.steps, progress.step) as show_progress,
        ):
            while not self._is_finished():
                end_if_exiting()
                recent.append(self._step(wrapped, optimizer))
                progress.step += 1
                progress.seconds = time.perf_counter() - begin
                validating = _is_due(progress.step, stage.validate_every, stage.steps)
                if validating or _is_due(progress.step, self.log_every, stage.steps):
                    show_progress(progress.step, self._log_losses(recent))
                    recent = []
                if validating:
                    self._validate()
                # Clocks and signals differ between processes, which must all take the same branch.
                due = time.perf_counter() - last_save > self.checkpoint_every_s
                ending, saving = self.distributed.any_rank(interrupted.is_set(), due)
                if ending or saving:
                    self._log_losses(recent)  # refuses a checkpoint after a bad loss
                    recent = []
                    self._save_checkpoint()
                    last_save = time.perf_counter()
                if ending:
                    raise interrupted.exception(
                        f"after step {progress.step} of {stage.steps} of stage {stage.name}, which "
                        "is saved"
                    )

    def _step(self, wrapped: _FabricModule, optimizer: torch.optim.Optimizer) -> Losses:
        step, options = self.state.progress.step, self.stage.optimizer
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(options, step, self.stage.steps)
        arguments = self.fabric.to_device(self.stage.batch(step))
        wrapped.train()
        optimizer.zero_grad()
        found: list[Losses] = []
        for turn, some in enumerate(
            split_microbatches(arguments, self.gradient_accumulation_steps)
        ):
            part = self.distributed.batch_shard(turn, self.gradient_accumulation_steps)
            last = turn == self.gradient_accumulation_steps - 1
            # Dropout is drawn for each shard, all else for the whole batch. Sharded gradients are
            # reduced in every microbatch, as deferring it would need memory for full gradients.
            generator = generator_for(self.seed, self._stream, step)
            with (
                seeded(self.seed, self._stream, step, part.index),
                self.fabric.no_backward_sync(
                    wrapped, enabled=not last and self.state.is_replicated
                ),
            ):
                losses: Losses = wrapped(*some, generator, part)
                self.fabric.backward(losses["loss"] / self.gradient_accumulation_steps)
            found.append({name: value.detach() for name, value in losses.items()})
        self.stage.update_codebooks(self.state.module, generator)
        # Non-finite gradients show in the next loss. A check here would wait for the GPU.
        self.fabric.clip_gradients(
            wrapped, optimizer, max_norm=options.clip_norm, error_if_nonfinite=False
        )
        optimizer.step()
        torch.clear_autocast_cache()  # it holds the old weights if a caller has set autocast
        if self.state.ema_model is not None:
            self.state.ema_model.update_parameters(self.state.module)
        return {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}

    def _log_losses(self, recent: list[Losses]) -> dict[str, float]:
        """Log and return the mean losses since the last report.

        Raises:
            TrainingError: The loss is not finite or has diverged.
        """
        if not recent:
            return {}
        series = {
            name: self.distributed.all_reduce_mean(torch.stack([losses[name] for losses in recent]))
            .cpu()
            .double()
            for name in recent[0]
        }  # [steps] each
        progress = self.state.progress
        complaint = progress.check_losses(series["loss"])
        if complaint is not None:
            raise self.distributed.same_error_on_all_ranks(self._training_error(complaint))
        means = {name: float(values.mean()) for name, values in series.items()}
        self.log.write(stage=self.stage.name, step=progress.step, seconds=progress.seconds, **means)
        return means

    def _training_error(self, problem: str) -> TrainingError:
        steps = self.checkpoints.steps()
        kept = (
            f"the checkpoint in {self.checkpoints.path(steps[0])} is from before"
            if steps
            else "no checkpoint had been written yet"
        )
        return TrainingError(
            f"{self.stage.name}: {problem}; {kept}; lower the learning rate "
            f"(now at most {self.stage.optimizer.learning_rate:g}) and train anew"
        )

    def _validate(self) -> None:
        stage, progress = self.stage, self.state.progress
        with self.state.evaluation_weights() as objective:
            figures = stage.validate(objective, self.fabric)
        if not math.isfinite(figures["loss"]):
            complaint = f"validation loss is {figures['loss']} after step {progress.step}"
            raise self.distributed.same_error_on_all_ranks(self._training_error(complaint))
        self.log.write(
            stage=stage.name,
            step=progress.step,
            **{f"validation_{name}": value for name, value in figures.items()},
        )
        if stage.patience is not None:
            self.state.keep_best(figures["loss"])

    def _is_finished(self) -> bool:
        """Return whether all steps are done, or validation has not improved within `patience`."""
        stage, progress = self.stage, self.state.progress
        if progress.step >= stage.steps or stage.patience is None:
            return progress.step >= stage.steps
        return progress.step - progress.best_step >= stage.patience * stage.validate_every

    def _save_checkpoint(self) -> None:
        taken = self.state.to_checkpoint()  # by all processes: each may hold a shard
        self.distributed.run_on_rank_zero(lambda: self._write_checkpoint(taken))

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        step = self.state.progress.step
        if (name := checkpoint.first_non_finite()) is not None:
            raise self._training_error(f"{name} is not finite after step {step}")
        if step not in self.checkpoints.steps():
            checkpoint.record.update(stage=self.stage.name, data=self.stage.state_dict())
            self.checkpoints.write(step, checkpoint)


def _is_due(step: int, every: int, steps: int) -> bool:
    return step % every == 0 or step == steps
