"""Tiny models with random weights, of images and of sounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.curve import Curve, CurvePoint, near_lossless_codes
from anytime_ar.bundle.format import Bundle
from anytime_ar.prior import DecodeState
from anytime_ar.sampling import AnytimeModel
from random_models import random_bundle

LABELS = ("cat", "dog", "owl")
FREQUENCIES = (0.5, 0.3, 0.2)
L, V = 6, 8
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
"""What differs between kinds of samples."""


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
    return Card.parse(
        {
            "name": "tiny",
            "data": values["data"] | data,
            "autoencoder": values["autoencoder"],
            "prior": values["prior"] if with_prior else None,
        },
        origin="test",
    )


def curve(distances: dict[int, float | None]) -> Curve:
    """Sample FD by number of codes; the squared error is 1 / k."""
    points = [
        {
            "codes": k,
            "mse": 1 / k,
            "psnr": None,
            "fd_reconstruction": None,
            "fd_sample": distance,
            "bits": 3.0 * k,
            "ms": None,
        }
        for k, distance in distances.items()
    ]
    read = [CurvePoint.parse(point, origin="test") for point in points]
    return Curve(
        code_length=L,
        vocabulary=V,
        points=tuple(read),
        near_lossless_codes=near_lossless_codes(read),
        fd_train=None,
        num_train_samples=1000,
        num_samples=1000,
        num_test_samples=1000,
        seed=0,
    )


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
