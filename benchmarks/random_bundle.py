"""Write a bundle with random weights, to time a model size that nobody has trained.

    python benchmarks/random_bundle.py runs/authors-size          # the size of the authors' release
    anytime bench runs/authors-size

The time of sampling depends only on the number of weights, not on their values.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.format import build_bundle, save_bundle


def main() -> None:
    """Build a bundle of the requested size and save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=1000)
    parser.add_argument("--code-length", type=int, default=70)
    size = parser.parse_args()
    card = Card.parse(
        {
            "name": f"random {size.layers} x {size.width}",
            "data": {"name": "none", "sample_shape": (1, 28, 28)},
            "autoencoder": {
                "code_length": size.code_length,
                "code_width": 8,
                "quantizer": {"vocabulary": size.vocabulary},
            },
            "prior": {"layers": size.layers, "width": size.width, "heads": size.heads},
            "weights_dtype": "float16",
        },
        origin="random bundle",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_bundle(build_bundle(card), size.folder)
    print(f"{size.folder}: {card.name}, {size.code_length} codes of {size.vocabulary}")


if __name__ == "__main__":
    main()
