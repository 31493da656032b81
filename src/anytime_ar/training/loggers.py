"""Loggers of other programs that a training run reports to: TensorBoard and Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from anytime_ar.errors import require_extras
from anytime_ar.training.config import TrainConfig
from anytime_ar.training.run_log import LogCallback


@contextmanager
def open_logger(
    name: Literal["tensorboard", "wandb"], config: TrainConfig, folder: Path
) -> Iterator[LogCallback]:
    """Yield a function that reports the figures of a run, as `STAGE/NAME` at each step.

    Args:
        name: Program to report to.
        config: Configuration of the run.
        folder: Folder of the run, where the program keeps its files.

    Raises:
        MissingExtraError: The extra of this name is not installed.
    """
    require_extras(f"the logger {name}", name)
    with _tensorboard(folder) if name == "tensorboard" else _wandb(config, folder) as report:
        yield report


def _figures(line: dict[str, float | str]) -> dict[str, float]:
    """Return the figures of a line of the log, by `STAGE/NAME`; none if it is no report of one."""
    if not {"stage", "step"} <= line.keys():
        return {}
    return {
        f"{line['stage']}/{name}": value
        for name, value in line.items()
        if name not in ("time", "step") and not isinstance(value, str)
    }


@contextmanager
def _tensorboard(folder: Path) -> Iterator[LogCallback]:
    """Yield a function that writes event files, which `tensorboard --logdir FOLDER` shows."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:

        def report(line: dict[str, float | str]) -> None:
            for name, value in _figures(line).items():
                writer.add_scalar(name, value, int(line["step"]))
            writer.flush()

        yield report


@contextmanager
def _wandb(config: TrainConfig, folder: Path) -> Iterator[LogCallback]:
    """Yield a function that logs to a run of Weights & Biases."""
    import wandb

    settings = config.model_dump(mode="json")
    with wandb.init(
        project="anytime-ar", name=config.name, dir=str(folder), config=settings
    ) as run:

        def report(line: dict[str, float | str]) -> None:
            if figures := _figures(line):
                run.log({**figures, f"{line['stage']}/step": line["step"]})

        yield report
