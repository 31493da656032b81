"""Tiny models with random weights, of images and of sounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import user_parts  # noqa: F401 - as models name it

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.curve import Curve
from anytime_ar.bundle.format import Bundle
from anytime_ar.prior import DecodeState
from anytime_ar.sampling import AnytimeModel
from random_models import curve_of, random_bundle

LABELS = ("cat", "dog", "owl")
FREQUENCIES = (0.5, 0.3, 0.2)
L, V = 6, 8
ONE_KIND = pytest.mark.parametrize("kind", ["images"], indirect=True)
"""For tests of what no kind of model has a part in; others run on every kind."""
PROCESS_KINDS = pytest.mark.parametrize("kind", ["images", "a Llama prior"], indirect=True)
"""For tests that start a process: a model of ours, and one with a part of another package."""
NETWORK = {"patch": 2, "widths": [4, 6], "blocks": 1, "hidden": 8}
CARDS: dict[str, dict[str, Any]] = {
    "images": {
        "data": {"sample_shape": (1, 8, 8)},
        "autoencoder": {
            "code_length": L,
            "code_width": 2,
            "quantizer": {"vocabulary": V},
            "network": NETWORK,
        },
        "prior": {"layers": 2, "width": 16, "heads": 2},
    },
    "sounds": {
        "data": {"sample_shape": (1, 48), "sample_rate": 1000},
        "autoencoder": {
            "layout": "lapped_segment",
            "segments": 2,
            "noise_bands": 2,
            "code_length": L,
            "code_width": 2,
            "quantizer": {"vocabulary": V},
            "network": NETWORK,
        },
        "prior": {
            "layers": 2,
            "width": 16,
            "heads": 2,
            "positions_per_table": 2,
            "embedding_width": 8,
            "condition_every_position": True,
            "codebook_features": 6,
        },
    },
}
"""What differs between kinds of samples, and of models of other packages."""
CARDS["a Llama prior"] = CARDS["images"] | {
    "prior": {
        "kind": "huggingface_prior",
        "config": {
            "model": {
                "model_type": "llama",
                "vocab_size": V + len(LABELS) + 1,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": L,
                "bos_token_id": None,
                "eos_token_id": None,
            },
            "code_length": L,
            "vocabulary": V,
            "tokens": "shared",
        },
    },
}
CARDS["a neural codec"] = {
    "data": {"sample_shape": (1, 48), "sample_rate": 1000},
    "autoencoder": {
        "kind": "neural_codec",
        "config": {
            "model": {
                "model_type": "encodec",
                "sampling_rate": 1000,
                "num_filters": 2,
                "hidden_size": 4,
                "codebook_dim": 4,
                "codebook_size": V,
                "upsampling_ratios": [4, 4],
                "num_lstm_layers": 1,
                "target_bandwidths": [1.3],
            },
            "samples": 48,
            "levels": 2,
            "frames": 3,
        },
    },
    "prior": CARDS["images"]["prior"],
}

CARDS["parts of the user"] = {
    "data": CARDS["images"]["data"],
    "autoencoder": {
        "layout": "custom",
        "encoder": {"kind": "user_parts.Encoder", "config": {"code_length": L, "code_width": 2}},
        "decoder": {"kind": "user_parts.Decoder", "config": {"code_length": L, "code_width": 2}},
        "quantizer": {"vocabulary": V},
    },
    "prior": {"kind": "user_parts.GRUPrior", "config": {"code_length": L, "vocabulary": V}},
}


class Kind:
    """Of samples, that the tests now run on; set by the fixture `kind`."""

    name = "images"


def sample_shape() -> tuple[int, ...]:
    shape: tuple[int, ...] = CARDS[Kind.name]["data"]["sample_shape"]
    return shape


def card(labels: tuple[str, ...] | None = LABELS, *, with_prior: bool = True) -> Card:
    values = CARDS[Kind.name]
    data = {
        "name": "none",
        "labels": labels,
        "label_frequencies": FREQUENCIES if labels else None,
    }
    prior = values["prior"]
    if "kind" in prior:
        prior = prior | {"config": prior["config"] | {"label_count": len(labels or ())}}
    return Card.parse(
        {
            "name": "tiny",
            "data": values["data"] | data,
            "autoencoder": values["autoencoder"],
            "prior": prior if with_prior else None,
        },
        origin="test",
    )


def curve(distances: dict[int, float | None]) -> Curve:
    """Sample FD by number of codes; the squared error is 1 / k."""
    return curve_of(distances, L, V)


def tiny_bundle(
    labels: tuple[str, ...] | None = LABELS,
    *,
    with_prior: bool = True,
    curve: Curve | None = None,
    seed: int = 0,
) -> Bundle:
    bundle = random_bundle(card(labels, with_prior=with_prior), seed)
    return replace(bundle, curve=curve)


def build_model(
    labels: tuple[str, ...] | None = LABELS, *, with_prior: bool = True
) -> AnytimeModel:
    return AnytimeModel(tiny_bundle(labels, with_prior=with_prior), device="cpu")


def record_steps(monkeypatch: pytest.MonkeyPatch, model: AnytimeModel) -> list[list[int]]:
    """The positions of the rows of every step from now on."""
    decoder = model.sampler.decoder
    steps: list[list[int]] = []
    real = decoder.step

    def recording(rows: DecodeState[Any], count: int) -> None:
        steps.append(rows.positions[:count])
        real(rows, count)

    monkeypatch.setattr(decoder, "step", recording)
    return steps
