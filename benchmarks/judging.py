"""What benchmarks share that judge a model's images: arguments, data, and samples for labels."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from anytime_ar.cli.options import data_of
from anytime_ar.data import Batch, DataSplits, load_data
from anytime_ar.sampling import AnytimeModel, load

BATCH = 250


def parser_of(text: str) -> argparse.ArgumentParser:
    """Of a benchmark with this docstring: which model, its data, and at which numbers of codes."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", help="where the data set lies; default: as trained")
    parser.add_argument("--codes", type=int, nargs="+", required=True)
    return parser


def subject(options: argparse.Namespace) -> tuple[AnytimeModel, DataSplits]:
    """The model and its data."""
    model = load(options.model, device="cpu")
    return model, load_data(data_of(model, options.data))


def given(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise SystemExit("the data set has no labels")
    return labels


def labels_of(batches: Iterable[Batch]) -> Tensor:
    """Of all samples, int64 [N]."""
    return torch.cat([given(batch.labels) for batch in batches])


def drawn(model: AnytimeModel, labels: Tensor, codes: int, **choice: Any) -> Tensor:
    """A sample's codes for each label, int64 [N, codes]."""
    parts = []
    for start in range(0, len(labels), BATCH):
        label = labels[start : start + BATCH].tolist()
        parts.append(
            model.sample_codes(len(label), codes=codes, seed=0, first=start, label=label, **choice)
        )
    return torch.cat(parts)
