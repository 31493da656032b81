"""Measure how close variations are to their samples, and how good they are, by the codes kept.

    python benchmarks/variations.py mnist --data path/to/mnist --codes 0 1 2 4 6 8 10 12 14 16

One variation is drawn of each of several samples of the model, and of as many test images. The
table shows the root mean square distance of pixels to the sample, and the Fréchet distance of the
variations to the test images over the features of a classifier that took no part in training.
"""

from __future__ import annotations

import torch
from independent_classifiers import STEPS, convolutional, feature_statistics, train_classifier
from model_and_data import (
    BATCH,
    collect_labels,
    load_model_and_data,
    make_parser,
    sample_codes_for_labels,
)
from torch import Tensor

from anytime_ar.evaluation.metrics.frechet_distance import Gaussian
from anytime_ar.evaluation.report import align_table


@torch.no_grad()
def main() -> None:
    """Vary samples and test images, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of the classifier")
    options = parser.parse_args()
    torch.manual_seed(0)
    model, data = load_model_and_data(options)
    with torch.enable_grad():
        network = train_classifier(
            convolutional(model.sample_shape, len(data.label_names or ())),
            data.train,
            options.steps,
        )
    test = list(data.test.batches(BATCH))
    images = torch.cat([batch.data for batch in test])
    labels = collect_labels(test)[: options.samples]
    reference = Gaussian(*feature_statistics(map(network, images.split(BATCH))))
    drawn = sample_codes_for_labels(model, labels, model.code_length)
    given = {"samples": drawn, "test images": model.encode(images[: options.samples])}
    rows = [["kept"] + [f"{what} of {name}" for name in given for what in ("distance", "FD")]]
    for keep in options.codes:
        row = [f"{keep}"]
        for codes in given.values():
            varied = model.vary(codes, keep=keep, seed=1, label=labels.tolist()).data
            row += [f"{_distance(varied, model.decode(codes)):.3f}"]
            found = feature_statistics(map(network, varied.split(BATCH)))
            row += [f"{reference.frechet_distance(*found):.3g}"]
        rows.append(row)
        print(align_table([rows[0], rows[-1]]), flush=True)
    print(f"\n{align_table(rows)}")


def _distance(a: Tensor, b: Tensor) -> float:
    """Return the mean over samples of the root mean square distance of their values."""
    return float((a - b).square().flatten(1).mean(1).sqrt().mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
