"""Estimate of the time that a training run takes, from a few steps of each stage on noise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import nn

from anytime_ar.autoencoder import OrderedAutoencoder, Tokenizer
from anytime_ar.bundle.format import attach_codebook
from anytime_ar.codes import random_codes
from anytime_ar.conditions import hidden_conditions
from anytime_ar.data import DataSplits
from anytime_ar.prior import CausalPrior, Prior
from anytime_ar.runtime.distributed import DistributedContext
from anytime_ar.runtime.mixed_precision import UnscaledPrecision
from anytime_ar.runtime.progress import format_duration
from anytime_ar.runtime.seeding import generator_for, seeded
from anytime_ar.training.checkpoint import CheckpointManager
from anytime_ar.training.config import OptimizerConfig, TrainConfig, TrainingPrecision
from anytime_ar.training.fsdp import device_mesh
from anytime_ar.training.stages import ENCODE_BATCH_SIZE
from anytime_ar.training.stages.autoencoder import AutoencoderStage
from anytime_ar.training.stages.decoder_gan import DecoderGANStage
from anytime_ar.training.stages.prior import PriorObjective, timing_batches
from anytime_ar.training.state import TrainingState

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_MAX_TIMED_S = 0.5
"""Seconds after which no further step is timed, in each number format."""
_MAX_TIMED_STEPS = 5
"""Most steps that are timed in each number format, after one to warm up."""


class StageTime(NamedTuple):
    """How long a part of a run is expected to take."""

    name: str
    """Name of the stage, or `encoding` for the codes that the prior trains on."""
    steps: int
    """Steps that are left, at most; batches of the encoding."""
    step_s: float
    """Seconds that a step takes."""

    @property
    def seconds(self) -> float:
        """Return the seconds of all steps that are left."""
        return self.steps * self.step_s


class RunTimer:
    """Times a few steps of each stage of a run before it begins, on copies of the model.

    The batches are noise. Reading the data and validation are left out.

    Args:
        config: Configuration of the run.
        folder: Folder of the run, whose checkpoints say how many steps are done.
        precision: Number format of training, or `auto` for the faster one.
        fabric: Device and precision.
        distributed: The processes of the run; the one that calls times its own shard of a batch.
        gradient_accumulation_steps: Microbatches of a batch shard.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        *,
        precision: TrainingPrecision | Literal["auto"],
        fabric: Fabric,
        distributed: DistributedContext,
        gradient_accumulation_steps: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Remember the settings; `estimate` does the work."""
        self._config, self._folder, self._fabric = config, folder, fabric
        self._distributed, self._num_microbatches = distributed, gradient_accumulation_steps
        self._shard = distributed.batch_shard(0, gradient_accumulation_steps)
        self._clock = clock
        self._precisions: tuple[TrainingPrecision, ...] = (
            get_args(UnscaledPrecision) if precision == "auto" else (precision,)
        )

    def estimate(
        self,
        autoencoder: Tokenizer,
        prior: Prior | CausalPrior | None,
        data: DataSplits,
        *,
        is_trained: bool = False,
    ) -> list[StageTime]:
        """Return the times of the stages, in their order.

        Args:
            autoencoder: The untrained autoencoder, or another tokenizer; it stays as it is.
            prior: The untrained prior, which stays as it is; None: there is none.
            data: The data set.
            is_trained: Whether the autoencoder is trained already, so that only the prior is not.

        Returns:
            The times; nothing if the weights are sharded, as one device may have no room for them,
            or if batches cannot be split evenly, which the training loop refuses.
        """
        sizes = [self._config.autoencoder_training.batch_size]
        if self._config.decoder_gan is not None:
            sizes.append(self._config.decoder_gan.batch_size)
        uneven = any(size % self._shard.num_shards for size in sizes)
        if uneven or device_mesh(self._fabric) is not None:
            return []
        config, model = self._config, deepcopy(autoencoder).to(self._fabric.device)
        times = []
        if isinstance(model, OrderedAutoencoder) and not is_trained:
            times.append(self._time_stage(AutoencoderStage(model, data, config, self._distributed)))
        if isinstance(autoencoder, OrderedAutoencoder) and config.decoder_gan is not None:
            copied = deepcopy(autoencoder).to(self._fabric.device)
            stage = DecoderGANStage(copied, data, config, self._distributed)
            times.append(self._time_stage(stage))
        if prior is not None:
            prior = deepcopy(prior)
            attach_codebook(model, prior)
            if data.train.size is not None and not self._steps_done("prior"):
                times.append(self._time_encoding(model, data.train.size))
            times.append(self._time_prior(prior, model.code_length))
        return times

    def _time_stage(self, stage: AutoencoderStage | DecoderGANStage) -> StageTime:
        batches = stage.timing_batches(self._microbatch_size(stage.batch_sizes[0]))
        step_s = self._time_step(stage.objective, batches, stage.optimizer, stage.ema_decay)
        return StageTime(stage.name, stage.steps - self._steps_done(stage.name), step_s)

    def _time_encoding(self, model: Tokenizer, num_samples: int) -> StageTime:
        """Return the time to encode the training split, as often as the prior's stage does it."""
        device = self._fabric.device
        x = torch.zeros(ENCODE_BATCH_SIZE, *model.sample_shape, device=device)
        model.eval()
        encode = torch.no_grad()(lambda: model.encode(x))
        seconds = min(self._time_once(encode) for _ in range(2))
        count = num_samples * self._config.prior_training.augmented_copies
        batches = -(-count // (ENCODE_BATCH_SIZE * self._distributed.world_size))
        return StageTime("encoding", batches, seconds)

    def _time_prior(self, prior: Prior | CausalPrior, code_length: int) -> StageTime:
        """Return the time of the prior's stage, from random codes."""
        options = self._config.prior_training
        generator = generator_for(self._config.seed, "rehearsal")
        shape = options.batch_size, code_length
        codes = random_codes(prior.vocabulary, shape, generator)
        labels = torch.zeros(len(codes), dtype=torch.int64) if prior.label_count else None
        first_size = round(options.batch_size / options.prefix_fractions[0])
        given = hidden_conditions(prior.conditions, len(codes), codes.device) or None
        batches = timing_batches(options, codes, labels, given, self._microbatch_size(first_size))
        objective = PriorObjective(prior, options.code_noise)
        step_s = self._time_step(objective, batches, options.optimizer, options.ema_decay)
        return StageTime("prior", options.steps - self._steps_done("prior"), step_s)

    def _time_step(
        self,
        objective: nn.Module,
        batches: Sequence[tuple[Any, ...]],
        optimizer: OptimizerConfig,
        ema_decay: float | None,
    ) -> float:
        """Return the seconds of a training step, in the fastest number format.

        Args:
            objective: Objective of the stage, which is trained on the noise.
            batches: A batch for each kind of step.
            optimizer: Optimizer of the stage.
            ema_decay: Decay of the moving average of the weights.
        """
        from anytime_ar.training.fabric import set_precision

        fabric = self._fabric
        objective.to(fabric.device).train()
        state = TrainingState(objective, optimizer, ema_decay, fabric)
        placed = fabric.to_device([*batches])

        def step() -> None:
            for batch in placed:
                self._step(state, fabric.strategy.precision.convert_input(batch), optimizer)

        seconds = []
        for precision in self._precisions:
            set_precision(fabric, precision)
            begin = self._clock()
            step()  # warm-up
            times = [self._time_once(step)]
            while len(times) < _MAX_TIMED_STEPS and self._clock() - begin < _MAX_TIMED_S:
                times.append(self._time_once(step))
            seconds.append(statistics.median(times))
        return min(seconds) / len(batches) * self._num_microbatches

    def _step(self, state: TrainingState, batch: tuple[Any, ...], options: OptimizerConfig) -> None:
        """Take a step, as the training loop does, but for one microbatch."""
        with seeded(self._config.seed, "rehearsal") as generator, self._fabric.autocast():
            losses = state.module(*batch, generator, self._shard)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(state.module.parameters(), options.clip_norm)
        state.optimizer.step()
        state.optimizer.zero_grad()
        if state.ema_model is not None:
            state.ema_model.update_parameters(state.module)

    def _time_once(self, work: Callable[[], object]) -> float:
        """Return the seconds of some work, after which the device is synchronised."""
        begin = self._clock()
        work()
        if self._fabric.device.type != "cpu":
            torch.accelerator.synchronize(self._fabric.device)
        return self._clock() - begin

    def _microbatch_size(self, batch_size: int) -> int:
        return max(1, batch_size // self._shard.num_shards)

    def _steps_done(self, stage: str) -> int:
        return max(CheckpointManager(self._folder / "checkpoints", stage).steps(), default=0)


def describe_times(times: Sequence[StageTime]) -> str:
    """Return the expected time of a run and of each of its stages, in words."""
    total = format_duration(sum(stage.seconds for stage in times))
    parts = []
    for stage in times:
        most = "at most " if stage.name == "prior" else ""
        steps = f" ({most}{stage.steps:,} steps, {1 / stage.step_s:.3g} steps/s)"
        steps = "" if stage.name == "encoding" else steps
        parts.append(f"{stage.name} {format_duration(stage.seconds)}{steps}")
    return f"training takes about {total} here: {', '.join(parts)}"


def describe_rest(times: Sequence[StageTime], stage: str, spent_s: float) -> str | None:
    """Return how long the stages after one are expected to take, in words.

    Args:
        times: Times of all stages, as estimated before the run.
        stage: Name of the stage that has just ended.
        spent_s: Seconds that it took. The rest is expected to be as much faster or slower than
            estimated as this stage was.

    Returns:
        A sentence; None after the last stage, without an estimate, and for a stage without steps.
    """
    at = next((i for i, one in enumerate(times) if one.name == stage), len(times))
    rest = sum(one.seconds for one in times[at + 1 :])
    if not rest or not times[at].seconds:
        return None
    left = format_duration(rest * spent_s / times[at].seconds)
    return f"{stage} took {format_duration(spent_s)}; about {left} are left"
