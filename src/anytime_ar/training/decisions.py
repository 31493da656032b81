"""What a run decides by measurement, on disk, so that it decides once.

    decisions.json      number format by stage, and threads

A run that goes on goes on as it was begun, on whatever machine: it is the run that was not
interrupted.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, PositiveInt

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.files import write_json
from anytime_ar.training.config import TrainingPrecision
from anytime_ar.training.log import RunLog
from anytime_ar.training.loop import seeded
from anytime_ar.training.precision import Unscaled, faster_precision
from anytime_ar.training.protocols import Stage
from anytime_ar.training.ranks import Ranks
from anytime_ar.training.sharding import mesh_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_FORMATS: tuple[TrainingPrecision, ...] = ("32-true", "bf16-mixed", "16-mixed")


class Decisions(Config):
    """The contents of decisions.json."""

    precision: dict[str, TrainingPrecision] = Field(default_factory=dict)
    """By stage."""
    threads: PositiveInt | None = None
    """Of the process that wrote this; results of other numbers differ by rounding."""


def read_decisions(folder: Path) -> Decisions:
    """Return what a run has decided so far.

    Raises:
        InputError: the file is damaged, or cannot be read.
    """
    path = folder / "decisions.json"
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a file; remove it, and what it held is measured anew")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Decisions()
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; make it readable, or remove it, and what it "
            "held is measured anew"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error}); remove it, and what it held is measured anew"
        ) from error
    return Decisions.parse(values, origin=str(path))


class Decider:
    """Decides for all processes of a run; the first one measures, reads and writes.

    Args:
        folder: of the run.
        told: number format of the configuration, or `auto`.
        fabric: device; computes in the format decided from then on.
        seed: of the run.
        ranks: this process and the others.
        passes: parts of its part of a batch that a process takes one at a time.
    """

    def __init__(
        self,
        folder: Path,
        told: TrainingPrecision | Literal["auto"],
        *,
        fabric: Fabric,
        seed: int,
        ranks: Ranks,
        passes: int = 1,
    ) -> None:
        self._folder, self._told, self._fabric = folder, told, fabric
        self._seed, self._ranks, self._passes = seed, ranks, passes
        self._by_stage: dict[str, TrainingPrecision] = {}
        if told == "16-mixed" and fabric.device.type == "cpu":
            self._told = "bf16-mixed"  # CPUs train in no other format of 16 bits

    def decide(self, stage: Stage, log: RunLog) -> None:
        """Compute in the number format of a stage, which is measured if nothing says it yet."""
        found: list[int] = []

        def look() -> None:
            before = read_decisions(self._folder)
            chosen = before.precision.get(stage.name)
            if chosen is None:
                chosen = self._measured(stage, log) if self._told == "auto" else self._told
                after = {
                    "precision": before.precision | {stage.name: chosen},
                    "threads": before.threads or torch.get_num_threads(),
                }
                write_json(self._folder / "decisions.json", after)
                log.write(stage=stage.name, precision=chosen)
            found.append(_FORMATS.index(chosen))

        self._ranks.first(look)
        self._by_stage[stage.name] = _FORMATS[self._ranks.highest(found[0] if found else -1)]
        self.use(stage.name)

    def use(self, stage: str) -> None:
        """Compute in the number format that was decided for a stage, by its name."""
        from anytime_ar.training.stage_precision import use_precision

        use_precision(self._fabric, self._by_stage[stage])

    def _measured(self, stage: Stage, log: RunLog) -> TrainingPrecision:
        """Time the objective of a stage on batches of its own size, and leave no trace of it."""
        from anytime_ar.training.stage_precision import use_precision

        fabric = self._fabric
        if mesh_of(fabric) is not None and fabric.device.type != "cpu":
            return "bf16-mixed"  # one device may have no room for a model that is cut in shards
        objective = deepcopy(stage.objective).to(fabric.device).train()
        part = self._ranks.part(0, self._passes)
        batches = fabric.to_device(stage.rehearsal(stage.batch_sizes[0] // part.count))

        def step(precision: Unscaled) -> None:
            use_precision(fabric, precision)
            for batch in batches:
                arguments = fabric.strategy.precision.convert_input(batch)
                with seeded(self._seed, stage.name, "rehearsal") as generator, fabric.autocast():
                    losses = objective(*arguments, generator, part)
                losses["loss"].backward()

        chosen, seconds = faster_precision(step, fabric.device)
        log.write(stage=stage.name, float32_s=seconds["32-true"], bfloat16_s=seconds["bf16-mixed"])
        return chosen
