"""Evaluate a model with independent classifiers instead of that of its data set.

    python benchmarks/independent_classifiers.py mnist --data path/to/mnist --codes 1 2 4 8 16

A small convolutional network, after LeNet-5 (LeCun et al., 1998), and a multilayer perceptron learn
the training images without augmentation. The library's own classifier learns from shifted images
and has another architecture. The table shows, at each number of codes, Fréchet distances over their
penultimate layers: of reconstructions of the test images, and of samples with their labels. The
floor is the distance of as many training images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from model_and_data import (
    BATCH,
    collect_labels,
    load_model_and_data,
    make_parser,
    require_labels,
    sample_codes_for_labels,
)
from torch import Tensor, nn

from anytime_ar.data import Split
from anytime_ar.evaluation.metrics.distribution import ReferenceDistribution
from anytime_ar.evaluation.report import align_table
from anytime_ar.runtime.files import write_json
from anytime_ar.sampling import AnytimeModel

STEPS = 2000
"""Training steps of each classifier, with 128 images each."""
REFERENCE_SEED = 1
"""Seed of the order of the training images for the floor; training uses 0."""


class IndependentClassifier(nn.Module):
    """A classifier that maps images [B, C, H, W] to features [B, F]; `head` maps these to logits.

    Args:
        body: maps images to features.
        features: number of features F.
        labels: number of classes.
    """

    def __init__(self, body: nn.Sequential, features: int, labels: int) -> None:
        """Create a classifier with dropout and a linear head."""
        super().__init__()
        self.body = body
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(features, labels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features [B, F] of images [B, C, H, W]."""
        features: Tensor = self.body(x)
        return features


def convolutional(shape: tuple[int, ...], labels: int) -> IndependentClassifier:
    """Return a convolutional classifier after LeNet-5 for images of a shape (C, H, W)."""
    channels, height, width = shape
    inside = 50 * math.prod(((side - 4) // 2 - 4) // 2 for side in (height, width))
    body = nn.Sequential(
        *(nn.Conv2d(channels, 20, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(inside, 128), nn.ReLU()),
    )
    return IndependentClassifier(body, 128, labels)


def perceptron(shape: tuple[int, ...], labels: int) -> IndependentClassifier:
    """Return a classifier with two hidden layers for images of a shape (C, H, W)."""
    body = nn.Sequential(
        *(nn.Flatten(), nn.Linear(math.prod(shape), 512), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Linear(512, 128), nn.ReLU()),
    )
    return IndependentClassifier(body, 128, labels)


def train_classifier(
    classifier: IndependentClassifier, train: Split, steps: int = STEPS
) -> IndependentClassifier:
    """Train a classifier on the training images and return it in evaluation mode."""
    optimizer = torch.optim.Adam(classifier.parameters(), 1e-3)
    batches = train.shuffled(128, 0)
    for _ in range(steps):
        batch = next(batches)
        loss = nn.functional.cross_entropy(
            classifier.head(classifier(batch.data)), require_labels(batch.labels)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.eval()


def feature_statistics(features: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean float64 [F] and the covariance float64 [F, F] of batches of features."""
    rows = torch.cat([*features]).double()
    return rows.mean(0), rows.T.cov()


def main() -> None:
    """Train the classifiers, evaluate the model with them, and print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/independent_classifiers.json"))
    options = parser.parse_args()
    torch.manual_seed(0)
    model, data = load_model_and_data(options)
    test = list(data.test.batches(BATCH))
    labels = collect_labels(test)
    images = torch.cat([batch.data for batch in test])
    names = len(data.label_names or ())
    encoded = torch.cat([model.encode(batch.data) for batch in test])
    sampled = sample_codes_for_labels(model, labels, model.code_length)
    figures = {}
    for name, kind in {"convolutional": convolutional, "perceptron": perceptron}.items():
        classifier = train_classifier(kind(model.sample_shape, names), data.train)
        with torch.no_grad():
            read = torch.cat(
                [classifier.head(classifier(some)) for some in images.split(BATCH)]
            ).argmax(1)
            reference = ReferenceDistribution(classifier(some) for some in images.split(BATCH))
            train = data.train.shuffled(BATCH, REFERENCE_SEED)
            floor = reference.compare(classifier(next(train).data) for _ in test).fd
            rows = [["codes", "reconstructions", "samples", "over the floor"]]
            points = []
            for k in sorted(options.codes):
                recon, sample = (
                    reference.compare(_decoded_features(model, codes[:, :k], classifier)).fd
                    for codes in (encoded, sampled)
                )
                rows.append([f"{k}", f"{recon:.3g}", f"{sample:.3g}", f"{sample / floor:.2f}"])
                points.append({"codes": k, "fd_reconstruction": recon, "fd_sample": sample})
        accuracy = float((read == labels).float().mean())
        print(f"{name}, test accuracy {accuracy:.1%}, floor {floor:.3g}\n{align_table(rows)}\n")
        figures[name] = {"test_accuracy": accuracy, "floor": floor, "points": points}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"model": options.model, "classifiers": figures})


def _decoded_features(
    model: AnytimeModel, codes: Tensor, classifier: IndependentClassifier
) -> Iterable[Tensor]:
    """Yield the features of decoded codes in batches."""
    return (classifier(model.decode(some)) for some in codes.split(BATCH))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
