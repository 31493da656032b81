"""Tiny models with random weights on disk, of images and of sounds, of ours and of other parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.format import save_bundle
from random_models import encodec_config, llama_config, random_bundle

L, V = 6, 8
LABELS = tuple("0123456789")
RATE = 8000
SHAPES = {
    "images": (1, 8, 8),
    "colours": (3, 8, 8),
    "sounds": (1, 64),
    "llama": (1, 8, 8),
    "codec": (1, 64),
}


def save_model(folder: Path, kind: str = "images", *, labelled: bool = True, seed: int = 0) -> str:
    """The path of a model, whose labels are those of the embedded digits."""
    data: dict[str, Any] = {"name": "digits", "sample_shape": SHAPES[kind]}
    if len(SHAPES[kind]) == 2:
        data["sample_rate"] = RATE
    if labelled:
        data |= {"labels": LABELS, "label_frequencies": tuple((i + 1) / 55 for i in range(10))}
    values = {
        "name": "tiny",
        "data": data,
        "autoencoder": {
            "code_length": L,
            "code_width": 2,
            "quantizer": {"vocabulary": V},
            "network": {"patch": 2, "widths": [4, 6], "blocks": 1, "hidden": 8},
        },
        "prior": {"layers": 2, "width": 16, "heads": 2},
    }
    if kind == "llama":
        values["prior"] = llama_config(L, V, len(LABELS) if labelled else 0)
    elif kind == "codec":
        values["autoencoder"] = encodec_config(64, 2, 3, V)
    save_bundle(random_bundle(Card.parse(values, origin="test"), seed), folder)
    return str(folder)
