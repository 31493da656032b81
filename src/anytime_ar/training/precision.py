"""Autotuning of the number format of each stage, saved in the folder of the run.

    autotune.json       number format by stage, and number of threads

A resumed run uses the saved settings, on any machine, and so equals an uninterrupted run.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, PositiveInt, field_validator

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.legacy import STAGES
from anytime_ar.runtime.distributed import DistributedContext
from anytime_ar.runtime.files import write_json
from anytime_ar.runtime.mixed_precision import UnscaledPrecision, faster_precision
from anytime_ar.runtime.seeding import seeded
from anytime_ar.training.config import TrainingPrecision
from anytime_ar.training.fsdp import device_mesh
from anytime_ar.training.run_log import RunLog
from anytime_ar.training.stages import Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class AutotunedSettings(Config):
    """Contents of the file autotune.json."""

    precision: dict[str, TrainingPrecision] = Field(default_factory=dict)
    """Number format of training, by stage."""
    threads: PositiveInt | None = None
    """Threads of the process that wrote the file, on which rounding depends; None: not written."""

    @field_validator("precision")
    @classmethod
    def _upgrade_stages(
        cls, precision: dict[str, TrainingPrecision]
    ) -> dict[str, TrainingPrecision]:
        present = {old: new for new, old in STAGES.items()}
        return {present.get(stage, stage): value for stage, value in precision.items()}


def read_autotuned_settings(folder: Path) -> AutotunedSettings:
    """Return the settings that a run has autotuned so far.

    Args:
        folder: Folder of the run.

    Raises:
        InputError: The file is damaged, or cannot be read.
    """
    path = folder / "autotune.json"
    if not path.exists() and (folder / "decisions.json").exists():  # of version 0.1
        path = folder / "decisions.json"
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a file; remove it, and what it held is measured anew")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return AutotunedSettings()
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; make it readable, or remove it, and what it "
            "held is measured anew"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error}); remove it, and what it held is measured anew"
        ) from error
    return AutotunedSettings.parse(values, origin=str(path))


class PrecisionAutotuner:
    """An autotuner of the number format of each stage.

    Rank zero measures, reads and writes; all processes use its result.

    Args:
        folder: Folder of the run.
        configured: Number format of the configuration, or `auto`.
        fabric: Fabric, whose precision `select` and `apply` set.
        seed: Seed of the run.
        distributed: The processes of the run.
        gradient_accumulation_steps: Microbatches of a batch shard; timing uses one of them.
    """

    def __init__(
        self,
        folder: Path,
        configured: TrainingPrecision | Literal["auto"],
        *,
        fabric: Fabric,
        seed: int,
        distributed: DistributedContext,
        gradient_accumulation_steps: int = 1,
    ) -> None:
        """Replace `16-mixed` by `bf16-mixed` on CPUs."""
        self._folder, self._fabric = folder, fabric
        self.configured = configured
        """Number format of the configuration, as far as this device has it, or `auto`."""
        self._seed, self._distributed, self._gradient_accumulation_steps = (
            seed,
            distributed,
            gradient_accumulation_steps,
        )
        self._by_stage: dict[str, TrainingPrecision] = {}
        if configured == "16-mixed" and fabric.device.type == "cpu":
            self.configured = "bf16-mixed"  # the only 16-bit format for training on CPUs

    def select(self, stage: Stage, log: RunLog) -> None:
        """Select and set the number format of a stage.

        It is the saved one, else the configured one, else the faster one by timing.

        Args:
            stage: Stage that will train in this format.
            log: Log that receives the timings and the result.
        """

        def look() -> TrainingPrecision:
            before = read_autotuned_settings(self._folder)
            chosen = before.precision.get(stage.name)
            if chosen is None:
                chosen = (
                    self._benchmark(stage, log) if self.configured == "auto" else self.configured
                )
                after = {
                    "precision": before.precision | {stage.name: chosen},
                    "threads": before.threads or torch.get_num_threads(),
                }
                write_json(self._folder / "autotune.json", after)
                log.write(stage=stage.name, precision=chosen)
            return chosen

        self._by_stage[stage.name] = self._distributed.run_on_rank_zero(look)
        self.apply(stage.name)

    def apply(self, stage: str) -> None:
        """Set the number format that `select` chose for a stage, by its name."""
        from anytime_ar.training.fabric import set_precision

        set_precision(self._fabric, self._by_stage[stage])

    def _benchmark(self, stage: Stage, log: RunLog) -> TrainingPrecision:
        """Return the faster number format for a stage, timed on a copy of its objective."""
        from anytime_ar.training.fabric import set_precision

        fabric = self._fabric
        if device_mesh(fabric) is not None and fabric.device.type != "cpu":
            return "bf16-mixed"  # one device may have no room for the full model
        objective = deepcopy(stage.objective).to(fabric.device).train()
        part = self._distributed.batch_shard(0, self._gradient_accumulation_steps)
        batches = fabric.to_device(stage.timing_batches(stage.batch_sizes[0] // part.num_shards))

        def step(precision: UnscaledPrecision) -> None:
            set_precision(fabric, precision)
            for batch in batches:
                arguments = fabric.strategy.precision.convert_input(batch)
                with seeded(self._seed, stage.name, "rehearsal") as generator, fabric.autocast():
                    losses = objective(*arguments, generator, part)
                losses["loss"].backward()

        chosen, seconds = faster_precision(step, fabric.device)
        log.write(stage=stage.name, float32_s=seconds["32-true"], bfloat16_s=seconds["bf16-mixed"])
        return chosen
