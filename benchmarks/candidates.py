"""Compare candidates with more codes at equal cost, by two independent classifiers.

    python benchmarks/candidates.py mnist --data path/to/mnist --codes 8 16 20 \
        --candidates 2 4 --beginnings 1 2 4

A deadline is counted in codes that a row draws, as times of a shared machine are unreliable: `c`
candidates with beginnings of `m` codes and `k` codes at the end cost `c m + k - m`. A deadline
above the code length leaves spare time, which more codes cannot use. A step of several rows takes
less time than as many steps of one row, so the comparison is strict with candidates.

The table shows the Fréchet distance of samples to the test images over the features of each
classifier, the mean of several seeds and its standard error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from independent_classifiers import (
    STEPS,
    IndependentClassifier,
    convolutional,
    feature_statistics,
    perceptron,
    train_classifier,
)
from model_and_data import BATCH, collect_labels, load_model_and_data, make_parser
from torch import Tensor

from anytime_ar.evaluation.metrics.frechet_distance import Gaussian
from anytime_ar.evaluation.report import align_table
from anytime_ar.runtime.files import write_json
from anytime_ar.sampling import AnytimeModel

Judges = Mapping[str, tuple[IndependentClassifier, Gaussian]]


def main() -> None:
    """Sample with each number of candidates and print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--candidates", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--beginnings", type=int, nargs="+", required=True)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of a classifier")
    parser.add_argument("--out", type=Path, default=Path("runs/candidates.json"))
    options = parser.parse_args()
    torch.manual_seed(0)
    model, data = load_model_and_data(options)
    test = list(data.test.batches(BATCH))
    labels = collect_labels(test)[: options.samples]
    judges = {}
    for name, kind in {"convolutional": convolutional, "perceptron": perceptron}.items():
        network = kind(model.sample_shape, len(data.label_names or ()))
        network = train_classifier(network, data.train, options.steps)
        with torch.no_grad():
            judges[name] = (
                network,
                Gaussian(*feature_statistics(network(batch.data) for batch in test)),
            )
    settings = [(1, 0)] + [(c, m) for c in options.candidates for m in options.beginnings]
    figures: dict[str, dict[str, list[float]]] = {}
    for candidates, beginning in settings:
        for seed in range(options.seeds):
            codes = _sample(model, labels, candidates, beginning, seed)
            for cost in options.codes:
                left = min(model.code_length, cost - (candidates - 1) * beginning)
                if left < max(1, beginning):
                    continue
                for name, fd in _distances(model, codes[:, :left], judges).items():
                    key = f"{candidates} x {beginning}" if candidates > 1 else "1"
                    figures.setdefault(f"{name}, cost {cost}", {}).setdefault(key, []).append(fd)
        write_json(options.out, figures)
        print(_table(figures), flush=True)


def _sample(
    model: AnytimeModel, labels: Tensor, candidates: int, beginning: int, seed: int
) -> Tensor:
    """Return all codes of one sample for each label, int64 [N, L]."""
    several: dict[str, Any] = {"candidates": candidates}
    if candidates > 1:
        several["candidate_codes"] = beginning
    parts = [
        model.sample_codes(len(some), seed=seed, first=BATCH * i, label=some.tolist(), **several)
        for i, some in enumerate(labels.split(BATCH))
    ]
    return torch.cat(parts)


@torch.no_grad()
def _distances(model: AnytimeModel, codes: Tensor, judges: Judges) -> dict[str, float]:
    """Return the Fréchet distance of decoded codes by the name of each classifier."""
    samples = model.decode(codes).split(BATCH)
    return {
        name: reference.frechet_distance(*feature_statistics(map(network, samples)))
        for name, (network, reference) in judges.items()
    }


def _table(figures: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Return the table of means and standard errors."""
    kinds = list(dict.fromkeys(key for row in figures.values() for key in row))
    rows = [["", *kinds]]
    for name, row in figures.items():
        cells = []
        for key in kinds:
            found = torch.tensor(row.get(key, []), dtype=torch.float64)
            error = found.std() / len(found) ** 0.5 if len(found) > 1 else 0.0
            cells.append(f"{found.mean():.3g} ± {error:.2g}" if len(found) else "")
        rows.append([name, *cells])
    return align_table(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
