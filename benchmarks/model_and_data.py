"""Shared parts of benchmarks that evaluate images: arguments, data, and samples for labels."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from anytime_ar.cli.options import model_data_config
from anytime_ar.data import Batch, DataSplits, load_data
from anytime_ar.sampling import AnytimeModel, load

BATCH = 250
"""Number of images that are processed at once."""


def make_parser(docstring: str) -> argparse.ArgumentParser:
    """Return the parser of a benchmark with a model, its data, and numbers of codes.

    Args:
        docstring: module docstring of the benchmark, whose first line is its description.
    """
    parser = argparse.ArgumentParser(description=docstring.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", help="where the data set lies; default: as trained")
    parser.add_argument("--codes", type=int, nargs="+", required=True)
    return parser


def load_model_and_data(options: argparse.Namespace) -> tuple[AnytimeModel, DataSplits]:
    """Load the requested model and its data set."""
    model = load(options.model, device="cpu")
    return model, load_data(model_data_config(model, options.model, options.data))


def require_labels(labels: Tensor | None) -> Tensor:
    """Return labels, or exit if the data set has none."""
    if labels is None:
        raise SystemExit("the data set has no labels")
    return labels


def collect_labels(batches: Iterable[Batch]) -> Tensor:
    """Return the labels of all batches, int64 [N]."""
    return torch.cat([require_labels(batch.labels) for batch in batches])


def sample_codes_for_labels(
    model: AnytimeModel, labels: Tensor, codes: int, *, seed: int = 0, **sampling_params: Any
) -> Tensor:
    """Return codes of one sample for each label, int64 [N, codes].

    Args:
        model: the model to sample from.
        labels: int64 [N].
        codes: number of codes per sample.
        seed: random seed of the samples.
        sampling_params: sampling parameters, which default to those of the model.
    """
    parts = []
    for start in range(0, len(labels), BATCH):
        label = labels[start : start + BATCH].tolist()
        parts.append(
            model.sample_codes(
                len(label), codes=codes, seed=seed, first=start, label=label, **sampling_params
            )
        )
    return torch.cat(parts)
