r"""Measure how sampling parameters change the samples, with equal random numbers per setting.

    python benchmarks/sampling_params.py runs/cifar10 --data path/to/cifar10 \
        --feature-extractor runs/features/cifar10 --codes 8 16 36 64 \
        --sampling-params guidance=1 guidance=2 guidance=1,3 "guidance=2 temperature=1,0.9"

Two numbers are a schedule from the first code to the last. The samples have the labels of the test
images in turn. The table shows, at each number of codes, their Fréchet distance to the test images
with its standard error, and the label accuracy of the classifier. Recall falls where variety is
lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from model_and_data import (
    BATCH,
    collect_labels,
    load_model_and_data,
    make_parser,
    sample_codes_for_labels,
)
from torch import Tensor

from anytime_ar.evaluation import load_feature_extractor
from anytime_ar.evaluation.feature_extractor import FeatureExtractor
from anytime_ar.evaluation.metrics.distribution import ReferenceDistribution
from anytime_ar.evaluation.report import align_table
from anytime_ar.runtime.files import write_json
from anytime_ar.sampling import AnytimeModel


def main() -> None:
    """Sample with each setting and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--feature-extractor", type=Path, required=True)
    parser.add_argument("--sampling-params", nargs="+", required=True)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("runs/sampling_params.json"))
    options = parser.parse_args()
    model, data = load_model_and_data(options)
    network = load_feature_extractor(options.feature_extractor).extractor
    with torch.no_grad():
        reference = ReferenceDistribution(network(batch.data) for batch in data.test.batches(BATCH))
    labels = collect_labels(data.test.batches(BATCH))
    labels = labels.repeat(-(-options.samples // len(labels)))[: options.samples]
    codes = sorted(options.codes)
    rows = [["", *[f"{k}" for k in codes], f"recall at {codes[-1]}"]]
    figures: dict[str, list[dict[str, float | None]]] = {}
    for text in options.sampling_params:
        sampled = sample_codes_for_labels(model, labels, codes[-1], **_parse_params(text))
        found = [_evaluate(model, sampled[:, :k], labels, network, reference) for k in codes]
        figures[text] = found
        cells = [
            f"{one['fd']:.4g} ± {one['fd_stderr']:.2g}, {100 * (one['label_accuracy'] or 0):.1f} %"
            for one in found
        ]
        rows.append([text, *cells, f"{found[-1]['recall']:.2f}"])
        print(align_table([rows[0], rows[-1]]), flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            options.out, {"codes": codes, "samples": options.samples, "sampling_params": figures}
        )
    print(f"\n{align_table(rows)}")


def _parse_params(text: str) -> dict[str, Any]:
    """Return `guidance=1,2 top_p=0.9` as keyword arguments."""
    params: dict[str, Any] = {}
    for part in text.split():
        name, _, value = part.partition("=")
        numbers = [float(number) for number in value.split(",")]
        params[name] = numbers[0] if len(numbers) == 1 else numbers
    return params


@torch.no_grad()
def _evaluate(
    model: AnytimeModel,
    codes: Tensor,
    labels: Tensor,
    network: FeatureExtractor,
    reference: ReferenceDistribution,
) -> dict[str, float | None]:
    """Return the distribution metrics and the label accuracy of decoded codes."""
    features, correct = [], 0
    for some, label in zip(codes.split(BATCH), labels.split(BATCH), strict=True):
        samples = model.decode(some)
        features.append(network(samples))
        correct += int((network.logits(samples).argmax(1) == label).sum())
    found = reference.compare(features)
    return {
        "fd": found.fd,
        "fd_stderr": found.quality.fd_stderr,
        "precision": found.quality.precision,
        "recall": found.quality.recall,
        "label_accuracy": correct / len(labels),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
