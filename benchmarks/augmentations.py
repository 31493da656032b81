"""Whether training images still look like training images, once they are changed at random.

    python benchmarks/augmentations.py cifar10 --data path/to/cifar10 \
        --features runs/features/cifar10 --codes 38 64 \
        --changes '{flip: true}' '{flip: true, shift: 2, scale: 0.05}'

A prior learns codes of changed images (`prior_training.augmentation`) and draws such as they are.
In the table is their Fréchet distance to the test images: of the images themselves, and of what a
model's autoencoder makes of them at each number of codes. That takes minutes, a prior an hour; how
much a prior needs such images so as not to learn the training set by heart is not told here.
"""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from judging import BATCH, load_model_and_data, make_parser
from torch import Tensor

from anytime_ar.data import AugmentationConfig
from anytime_ar.evaluation import load_feature_extractor
from anytime_ar.evaluation.metrics.distribution import ReferenceDistribution
from anytime_ar.evaluation.report import align_table
from anytime_ar.runtime.files import write_json

IMAGES = 10_000


@torch.no_grad()
def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--changes", nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/augmentations.json"))
    options = parser.parse_args()
    model, data = load_model_and_data(options)
    network = load_feature_extractor(options.features).extractor
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
