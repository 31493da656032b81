r"""Measure how far augmented training images are from real ones.

    python benchmarks/augmentations.py cifar10 --data path/to/cifar10 \
        --feature-extractor runs/features/cifar10 --codes 38 64 \
        --changes '{flip: true}' '{flip: true, shift: 2, scale: 0.05}'

A prior trained on codes of augmented images (`prior_training.augmentation`) generates such images.
The table shows the Fréchet distance of augmented images to the test images, and that of their
reconstructions at each number of codes. This takes minutes, training a prior an hour. It does not
measure how much augmentation a prior needs against memorisation.
"""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from model_and_data import BATCH, load_model_and_data, make_parser
from torch import Tensor

from anytime_ar.data import AugmentationConfig
from anytime_ar.evaluation import load_feature_extractor
from anytime_ar.evaluation.metrics.distribution import ReferenceDistribution
from anytime_ar.evaluation.report import align_table
from anytime_ar.runtime.files import write_json

IMAGES = 10_000
"""Number of augmented images per setting."""


@torch.no_grad()
def main() -> None:
    """Measure each augmentation setting and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--feature-extractor", type=Path, required=True)
    parser.add_argument("--changes", nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/augmentations.json"))
    options = parser.parse_args()
    model, data = load_model_and_data(options)
    network = load_feature_extractor(options.feature_extractor).extractor
    reference = ReferenceDistribution(network(batch.data) for batch in data.test.batches(BATCH))

    def distance(parts: list[Tensor]) -> float:
        return reference.compare(network(part) for part in parts).fd

    codes = sorted(options.codes)
    rows = [["", "images", *[f"{k} codes" for k in codes]]]
    figures = {}
    for text in options.changes:
        config = AugmentationConfig.parse(yaml.safe_load(text), origin=text)
        batches = data.train.shuffled(BATCH, 0, config)
        changed = [next(batches).data for _ in range(IMAGES // BATCH)]
        encoded = [model.encode(part) for part in changed]
        found = [distance(changed)]
        found += [distance([model.decode(part[:, :k]) for part in encoded]) for k in codes]
        figures[text] = found
        rows.append([text, *[f"{fd:.3g}" for fd in found]])
    print(align_table(rows))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"codes": codes, "images": IMAGES, "changes": figures})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
