r"""Compare a Llama of transformers with our prior, over the codes of one trained tokenizer.

    anytime train-classifier mnist --data.name path/to/mnist --out runs/features/mnist
    python benchmarks/foreign_prior_quality.py --data path/to/mnist \
        --feature-extractor runs/features/mnist --out runs/foreign_prior_quality

Both priors have blocks of the same size, and the same steps, batches, optimizer and seeds. They are
trained as a user would train them, and an interrupted run goes on where it was. The table shows the
likelihood of the test images, Fréchet distances over two kinds of features, and how many deadlines
were kept. Deadlines are multiples of each model's own cost of one code and its decode, and the
models take turns.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from deadlines import DeadlineResult
from model_and_data import BATCH, collect_labels, sample_codes_for_labels
from torch import Tensor

import anytime_ar as aar
from anytime_ar.data import DataConfig, DataSplits, load_data
from anytime_ar.evaluation import fit_pca, load_feature_extractor
from anytime_ar.evaluation.metrics.frechet_distance import FeatureStatistics, Gaussian
from anytime_ar.evaluation.report import align_table
from anytime_ar.kernel.instruction_sets import cpu_name
from anytime_ar.runtime.files import write_json
from anytime_ar.sampling import AnytimeModel

LAYERS, WIDTH, HEADS = 3, 64, 4
PRIORS: dict[str, dict[str, Any]] = {
    "ours": {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "dropout": 0},
    "llama": {
        "kind": "huggingface_prior",
        "config": {
            "tokens": "per_position",  # an embedding for each position and code, as in ours
            "model": {
                "model_type": "llama",
                "hidden_size": WIDTH,
                "intermediate_size": 172,  # three matrices of it: blocks of the size of ours
                "num_hidden_layers": LAYERS,
                "num_attention_heads": HEADS,
                "tie_word_embeddings": True,
            },
        },
    },
}
"""Settings of the priors by name."""
PCA_FEATURES, PCA_BATCHES = 32, 40
"""Number of principal components, and of batches of images that they are fitted to."""
DEADLINE_MULTIPLES = (3, 6)
"""Deadlines, as multiples of the cost of one code and its decode."""


def main() -> None:
    """Train the priors, measure them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", default="mnist", help="model whose codes are learned")
    parser.add_argument("--data", default="ylecun/mnist", help="where the data set lies")
    parser.add_argument("--feature-extractor", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--training-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sampling-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=10_000, help="for each sampling seed")
    parser.add_argument("--requests", type=int, default=300, help="for each deadline")
    parser.add_argument("--out", type=Path, default=Path("runs/foreign_prior_quality"))
    options = parser.parse_args()
    models: dict[str, list[AnytimeModel]] = {name: [] for name in PRIORS}
    for seed in options.training_seeds:
        for name, prior in PRIORS.items():
            folder = options.out / f"{name}-{seed}"
            models[name].append(train_prior(prior, folder, options, seed))
    data = load_data(DataConfig(name=options.data))
    quality = measure_quality(models, data, options)
    deadlines = measure_deadlines(
        {name: some[0] for name, some in models.items()}, options.requests
    )
    figures = {
        "machine": {
            "processor": cpu_name(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "load": os.getloadavg(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "steps": options.steps,
        "samples": options.samples,
        "sampling_seeds": options.sampling_seeds,
        "training_seeds": options.training_seeds,
        "models": {name: quality[name] | deadlines[name] for name in PRIORS},
    }
    write_json(options.out / "foreign_prior_quality.json", figures)
    print(result_table(figures["models"]))
    print("load of the machine: " + ", ".join(f"{load:.1f}" for load in os.getloadavg()))


def train_prior(
    prior: dict[str, Any], folder: Path, options: argparse.Namespace, seed: int
) -> AnytimeModel:
    """Train a prior on the codes of the tokenizer, or return the one that is in the folder."""
    settings = {
        "name": folder.name,
        "seed": seed,
        "data": {"name": options.data},
        "tokenizer": options.tokenizer,
        "prior": prior,
        "prior_training": {
            "steps": options.steps,
            "batch_size": 64,
            "optimizer": {"kind": "muon", "learning_rate": 0.004},
        },
        "precision": "32-true",
    }
    return aar.train(settings, folder, resume=True, device="cpu", show_progress=False)


@torch.no_grad()
def measure_quality(
    models: dict[str, list[AnytimeModel]], data: DataSplits, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Measure the likelihood of the test images, and the samples of each model.

    Args:
        models: models by name, one for each training seed, with one tokenizer.
        data: training and test split.
        options: number of samples, their seeds, and the feature extractor.

    Returns:
        By name, each figure for every training seed; distances also for every sampling seed.
    """
    tokenizer = models["ours"][0]
    test = list(data.test.batches(BATCH))
    labels = collect_labels(test)
    codes = torch.cat([tokenizer.encode(batch.data) for batch in test])
    wanted = labels.repeat(-(-options.samples // len(labels)))[: options.samples]
    references = {
        name: (features, _Reference(features(batch.data) for batch in test))
        for name, features in feature_functions(data, options.feature_extractor).items()
    }
    found: dict[str, dict[str, Any]] = {}
    for name, same in models.items():
        prior = same[0].prior
        assert prior is not None
        bits = [model.nll(codes, label=labels.tolist()).sum(1) / math.log(2) for model in same]
        one: dict[str, Any] = {
            "parameters": sum(weight.numel() for weight in prior.parameters()),
            "block_parameters": _block_parameters(prior),
            "bits_per_image": [float(some.mean()) for some in bits],
            "bits_stderr": [float(some.std() / len(some) ** 0.5) for some in bits],
        }
        for model in same:
            of_model: dict[str, list[float]] = {kind: [] for kind in references}
            for seed in options.sampling_seeds:
                drawn = sample_codes_for_labels(model, wanted, model.code_length, seed=seed)
                samples = [model.decode(some) for some in drawn.split(BATCH)]
                for kind, (features, reference) in references.items():
                    of_model[kind].append(reference.distance(map(features, samples)))
            for kind, distances in of_model.items():
                one.setdefault(f"fd_{kind}", []).append(distances)
        found[name] = one
    return found


class _Reference:
    """The test images in the space of some features.

    Args:
        features: batches float32 [B, F].
    """

    def __init__(self, features: Iterable[Tensor]) -> None:
        """Compute the normal distribution of the features."""
        self._centre: Tensor | None = None
        self._gaussian = Gaussian(*self._moments(features))

    def distance(self, features: Iterable[Tensor]) -> float:
        """Return the Fréchet distance to samples, by batches of their features."""
        return self._gaussian.frechet_distance(*self._moments(features))

    def _moments(self, features: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        statistics_of = None
        for batch in features:
            if self._centre is None:
                self._centre = batch.double().mean(0)
            if statistics_of is None:
                statistics_of = FeatureStatistics(self._centre)
            statistics_of.add(batch)
        assert statistics_of is not None
        return statistics_of.mean_and_covariance()


def feature_functions(
    data: DataSplits, feature_extractor: Path
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return functions from images [B, C, H, W] to features [B, F].

    Args:
        data: the principal components are those of the first training images.
        feature_extractor: folder of the trained classifier.
    """
    images = [batch.data for batch in islice(data.train.batches(BATCH), PCA_BATCHES)]
    pca = fit_pca(lambda: images, PCA_FEATURES)

    def components(images: Tensor) -> Tensor:
        return (images.flatten(1).double() - pca.mean) @ pca.components

    return {"classifier": load_feature_extractor(feature_extractor).extractor, "pca": components}


def _block_parameters(prior: torch.nn.Module) -> int:
    """Return the number of parameters of the blocks, without embeddings and output."""
    blocks = prior.blocks if isinstance(prior, aar.Prior) else prior.model.model.layers
    return sum(weight.numel() for weight in blocks.parameters())


def measure_deadlines(models: dict[str, AnytimeModel], requests: int) -> dict[str, dict[str, Any]]:
    """Count the deadlines that are kept, one sample each, by turns.

    Args:
        models: models by name.
        requests: number of samples for each model and deadline.
    """
    costs = {
        name: model.sampler.warm_up(lambda model=model: model.plan(1)[0])
        for name, model in models.items()
    }
    code_s = {
        name: cost.step.quantile(0.5) + cost.decode.quantile(0.5) for name, cost in costs.items()
    }
    records = {
        name: [DeadlineResult(multiple * code_s[name]) for multiple in DEADLINE_MULTIPLES]
        for name in models
    }
    for turn in range(requests):
        for which in range(len(DEADLINE_MULTIPLES)):
            for name, model in models.items():
                record = records[name][which]
                begin = time.perf_counter()
                result = model.generate(1, deadline_s=record.deadline_s, seed=turn)
                record.finish_fractions.append((time.perf_counter() - begin) / record.deadline_s)
                record.codes.append(result.codes_drawn)
    return {
        name: {
            "backend": model.backend,
            "step_ms": 1000 * costs[name].step.quantile(0.5),
            "decode_ms": 1000 * costs[name].decode.quantile(0.5),
            "deadlines": [
                {
                    "multiple": multiple,
                    "deadline_ms": 1000 * record.deadline_s,
                    "requests": requests,
                    "kept": requests - record.misses,
                    "finish_fraction_p50": record.quantile(0.5),
                    "finish_fraction_p99": record.quantile(0.99),
                    "codes": statistics.fmean(record.codes),
                }
                for multiple, record in zip(DEADLINE_MULTIPLES, records[name], strict=True)
            ],
        }
        for name, model in models.items()
    }


def result_table(models: dict[str, dict[str, Any]]) -> str:
    """Return the figures as a table with a column for each model.

    A spread is the standard deviation over training seeds of the mean over sampling seeds. With one
    training seed it is that over sampling seeds.
    """
    rows = [["", *models]]
    some = next(iter(models.values()))

    def row(title: str, cell: Callable[[dict[str, Any]], str]) -> None:
        rows.append([title, *map(cell, models.values())])

    row("parameters of the blocks", lambda one: f"{one['block_parameters']:,}")
    row("parameters", lambda one: f"{one['parameters']:,}")
    row("bits per test image", lambda one: _mean_and_spread(one["bits_per_image"]))
    for kind in ("classifier", "pca"):
        row(f"FD, {kind} features", lambda one, kind=kind: _distance(one[f"fd_{kind}"]))
    row("ms a step", lambda one: f"{one['step_ms']:.2f}")
    row("ms a decode", lambda one: f"{one['decode_ms']:.2f}")
    for i, deadline in enumerate(some["deadlines"]):
        title = f"deadline, {deadline['multiple']} x code and decode"
        row(f"{title}, ms", lambda one, i=i: f"{one['deadlines'][i]['deadline_ms']:.1f}")
        row(
            f"{title}, kept",
            lambda one, i=i: f"{one['deadlines'][i]['kept']} of {one['deadlines'][i]['requests']}",
        )
        row(f"{title}, codes", lambda one, i=i: f"{one['deadlines'][i]['codes']:.1f}")
    return align_table(rows)


def _distance(by_training_seed: list[list[float]]) -> str:
    means = [statistics.fmean(distances) for distances in by_training_seed]
    return _mean_and_spread(means if len(means) > 1 else by_training_seed[0])


def _mean_and_spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{spread}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
