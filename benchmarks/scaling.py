"""Measure how cost grows with code length, width, batch and image size, and extrapolate it.

    python benchmarks/scaling.py --out runs/scaling

It uses one thread. It times training steps of priors and autoencoders, and sampling steps. It fits
the time of training steps as a sum of four costs: FLOPs of matrix products, activations (other
operations wait for memory), attention scores, and parameters that the optimizer updates. Each fit
leaves out the largest sizes and reports how well it predicts them. PyTorch counts the FLOPs. Prints
tables and writes scaling.json. docs/experiments/scaling.md has the conclusions.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.format import Bundle, build_bundle
from anytime_ar.evaluation.report import align_table
from anytime_ar.runtime.devices import disable_memory_trimming
from anytime_ar.runtime.files import write_json
from anytime_ar.sampling import AnytimeModel
from anytime_ar.serving.engine.runner import ModelRunner
from anytime_ar.training.config import AutoencoderTrainingConfig, OptimizerConfig
from anytime_ar.training.optimizer import build_optimizer
from anytime_ar.training.stages.autoencoder import AutoencoderObjective
from anytime_ar.training.stages.prior import PriorObjective

REPEATS = 3
"""Number of timed steps of each size."""
PRIORS = [  # L, width, layers, batch
    (16, 128, 4, 64),
    (64, 128, 4, 32),
    (64, 256, 4, 8),
    (64, 256, 4, 32),
    (64, 256, 8, 16),
    (128, 256, 4, 16),
    (256, 128, 4, 16),
    (64, 512, 4, 16),
    (256, 256, 4, 16),
    (64, 512, 8, 32),
    (256, 512, 6, 16),
]
"""Priors to train: code length, width, layers, batch size."""
AUTOENCODERS = [  # side of the image, widths, batch
    (32, (64, 128), 16),
    (32, (64, 128), 64),
    (64, (32, 64), 16),
    (64, (64, 128), 16),
    (64, (64, 128, 128), 32),
    (64, (32, 64, 128), 32),
    (128, (64, 128), 4),
    (128, (32, 64, 128), 8),
    (128, (64, 128, 128), 16),
    (128, (64, 128, 128, 128), 32),
]
"""Autoencoders to train: side of the image, widths, batch size."""
DRAWS = [(64, 128, 4), (64, 256, 4), (256, 256, 4), (64, 512, 4), (64, 512, 8), (256, 512, 8)]
"""Priors to sample from: code length, width, layers."""
NUM_HELD_OUT = 2
"""Number of the largest sizes that a fit leaves out."""


@dataclass(frozen=True)
class StepCost:
    """The measured cost of one step at one size."""

    size: str
    """Description of the size for the table."""
    flops: float
    """FLOPs of all matrix products."""
    activations: float
    """Number of values that all modules output."""
    attention_scores: float
    """Number of attention scores, in all layers and heads."""
    parameters: int
    """Number of parameters that the optimizer updates."""
    seconds: float
    """Median time of a step, in seconds."""

    @property
    def regressors(self) -> list[float]:
        """Return the four costs of the fit, in units of similar magnitude."""
        return [
            self.flops / 1e9,
            self.activations / 1e6,
            self.attention_scores / 1e6,
            self.parameters / 1e6,
        ]


@dataclass(frozen=True)
class CostFit:
    """The fitted coefficients of the time of a step."""

    s_per_gflop: float
    """Seconds per 10^9 FLOPs of matrix products."""
    s_per_million_activations: float
    """Seconds per million activations."""
    s_per_million_scores: float
    """Seconds per million attention scores."""
    s_per_million_parameters: float
    """Seconds per million parameters."""

    def predict_s(self, point: StepCost) -> float:
        """Return the predicted seconds of a step."""
        parts = zip(astuple(self), point.regressors, strict=True)
        return sum(each * amount for each, amount in parts)


def make_card(length: int, side: int, prior: tuple[int, int], network: dict[str, Any]) -> Card:
    """Return the card of a model.

    Args:
        length: code length.
        side: height and width of the images.
        prior: width and number of layers of the prior.
        network: settings of the autoencoder's network.
    """
    width, layers = prior
    return Card.parse(
        {
            "name": "any",
            "data": {"name": "none", "sample_shape": (3, side, side)},
            "autoencoder": {
                "code_length": length,
                "code_width": 8,
                "quantizer": {"vocabulary": 256},
                "network": network,
            },
            "prior": {"width": width, "layers": layers, "heads": width // 64, "dropout": 0.0},
        },
        origin="scaling",
    )


def random_bundle(
    length: int, side: int, prior: tuple[int, int], network: dict[str, Any]
) -> Bundle:
    """Return a bundle with random weights; the arguments are those of `make_card`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_bundle(make_card(length, side, prior, network))


def training_step(
    objective: nn.Module, arguments: Callable[[], tuple[Any, ...]]
) -> Callable[[], None]:
    """Return a function that runs one training step with bfloat16 autocast.

    Args:
        objective: module that returns the loss.
        arguments: returns the arguments of the objective except the generator.
    """
    optimizer = build_optimizer(objective.train(), OptimizerConfig())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(*arguments(), torch.Generator().manual_seed(0))["loss"]
        loss.backward()
        optimizer.step()

    return step


def measure_step(
    size: str, module: nn.Module, step: Callable[[], None], scores: float = 0.0
) -> StepCost:
    """Return the cost of a step: the median time after a first step, which counts operations.

    Args:
        size: description of the size.
        module: module whose activations and parameters are counted.
        step: runs one step.
        scores: number of attention scores, which PyTorch does not count.
    """
    numbers = 0

    def count(_: nn.Module, __: object, output: object) -> None:
        nonlocal numbers
        numbers += output.numel() if isinstance(output, Tensor) else 0

    leaves = [one for one in module.modules() if not [*one.children()]]
    hooks = [one.register_forward_hook(count) for one in leaves]
    with FlopCounterMode(display=False) as counter:
        step()
    for hook in hooks:
        hook.remove()
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    work = float(counter.get_total_flops())
    weights = sum(weight.numel() for weight in module.parameters())
    return StepCost(size, work, numbers, scores, weights, statistics.median(seconds))


def measure_priors() -> list[StepCost]:
    """Return the costs of training steps of all priors."""
    points = []
    for length, width, layers, batch in PRIORS:
        bundle = random_bundle(
            length, 32, (width, layers), {"widths": [8, 8], "blocks": 0, "hidden": 8}
        )
        assert bundle.prior is not None
        codes = torch.randint(256, (batch, length), generator=torch.Generator().manual_seed(0))
        objective = PriorObjective(bundle.prior)
        size = f"L {length}, {layers} x {width}, batch {batch}"
        step = training_step(objective, lambda c=codes: (c, None))
        scores = float(layers * batch * (width // 64) * length**2)
        points.append(measure_step(size, objective, step, scores))
    return points


def measure_autoencoders() -> list[StepCost]:
    """Return the costs of training steps of all autoencoders."""
    points = []
    for side, widths, batch in AUTOENCODERS:
        bundle = random_bundle(64, side, (64, 1), {"widths": widths})
        objective = AutoencoderObjective(bundle.autoencoder, AutoencoderTrainingConfig())
        images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
        bundle.autoencoder.init_codebooks([images], torch.Generator().manual_seed(0))
        size = f"{side} x {side}, widths {', '.join(map(str, widths))}, batch {batch}"
        step = training_step(objective, lambda x=images: (x, 0.5))
        points.append(measure_step(size, objective, step))
    return points


def fit_costs(points: Sequence[StepCost]) -> CostFit:
    """Return the non-negative fit with the least squared relative errors."""
    seconds = np.array([point.seconds for point in points])
    terms = np.array([point.regressors for point in points]) / seconds[:, None]
    return CostFit(*map(float, nnls(terms, np.ones(len(points)))[0]))


def report_fit(name: str, points: Sequence[StepCost]) -> dict[str, Any]:
    """Fit all but the largest sizes, print a table, and return the figures."""
    ordered = sorted(points, key=lambda point: point.flops)
    fit = fit_costs(ordered[:-NUM_HELD_OUT])
    rows = [[name, "GFLOP", "ms", "GFLOP/s", "fit"]]
    for place, point in enumerate(ordered):
        miss = fit.predict_s(point) / point.seconds - 1
        foreseen = " foreseen" if place >= len(ordered) - NUM_HELD_OUT else ""
        rows.append(
            [
                point.size,
                f"{point.flops / 1e9:.2f}",
                f"{1000 * point.seconds:.1f}",
                f"{point.flops / point.seconds / 1e9:.0f}",
                f"{100 * miss:+.0f} %{foreseen}",
            ]
        )
    print(align_table(rows))
    print(
        f"{1000 * fit.s_per_gflop:.2f} ms for a GFLOP, "
        f"{1000 * fit.s_per_million_activations:.2f} for a million numbers, "
        f"{1000 * fit.s_per_million_scores:.2f} for a million scores, "
        f"{1000 * fit.s_per_million_parameters:.2f} for a million weights\n"
    )
    return {"fit": asdict(fit), "points": [asdict(point) for point in ordered]}


def measure_draws() -> list[dict[str, Any]]:
    """Print and return the times of sampling steps by batch size, and of a complete sample."""
    rows = [["draws", "1 row, ms", "16 rows", "64 rows", "last codes", "a sample, ms", "decode"]]
    found = []
    for length, width, layers in DRAWS:
        bundle = random_bundle(length, 32, (width, layers), {})
        model = AnytimeModel(bundle, device="cpu")
        runner = ModelRunner("any", model, 64, time.perf_counter)
        runner.measure_costs()
        costs = runner.costs
        steps = {count: costs.step_s(count, count * length // 2) for count in (1, 16, 64)}
        last = costs.step_s(16, 16 * length)
        sample_s = costs.sampling_work_s(1, 0, length) + costs.decode_work_s(1)
        size = f"L {length}, {layers} x {width}"
        found.append(
            {
                "size": size,
                "step_s": steps,
                "sample_s": sample_s,
                "decode_s": costs.decode_s(1),
                "weights": sum(weight.numel() for weight in bundle.prior.parameters())
                if bundle.prior
                else 0,
            }
        )
        ms = [1000 * seconds for seconds in (*steps.values(), last, sample_s, costs.decode_s(1))]
        rows.append([size, *(f"{one:.2f}" for one in ms)])
    print(align_table(rows))
    return found


def main() -> None:
    """Measure all sizes and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_memory_trimming()  # as training does
    figures = {
        "priors": report_fit("training step, prior", measure_priors()),
        "autoencoders": report_fit("training step, autoencoder", measure_autoencoders()),
        "draws": measure_draws(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "scaling.json", figures)


if __name__ == "__main__":
    main()
