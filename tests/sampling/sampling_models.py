"""Tiny models with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anytime_ar.bundle import build
from anytime_ar.card import Card
from anytime_ar.sampling import AnytimeModel

LABELS = ("cat", "dog", "owl")
FREQUENCIES = (0.5, 0.3, 0.2)
L, V = 6, 8


def card(labels: tuple[str, ...] | None = LABELS, *, with_prior: bool = True) -> Card:
    return Card.parse(
        {
            "name": "tiny",
            "data": {
                "name": "none",
                "sample_shape": (1, 8, 8),
                "labels": labels,
                "label_frequencies": FREQUENCIES if labels else None,
            },
            "autoencoder": {
                "code_length": L,
                "code_width": 2,
                "quantizer": {"vocabulary": V},
                "network": {"patch": 2, "widths": [4, 6], "blocks": 1, "hidden": 8},
            },
            "prior": {"layers": 2, "width": 16, "heads": 2} if with_prior else None,
        },
        origin="test",
    )


def build_model(
    labels: tuple[str, ...] | None = LABELS, *, with_prior: bool = True
) -> AnytimeModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bundle = build(card(labels, with_prior=with_prior))
        if bundle.prior is not None:
            with torch.no_grad():  # weights start small; here labels and codes should matter
                for weight in bundle.prior.parameters():
                    weight.add_(0.3 * torch.randn_like(weight))
                bundle.autoencoder.quantizer.get_buffer("codebooks").normal_()
    return AnytimeModel(bundle, device="cpu")


def record(monkeypatch: pytest.MonkeyPatch, model: AnytimeModel, method: str) -> list[Any]:
    """The arguments of every call of a method of the prior from now on."""
    assert model.prior is not None
    calls: list[Any] = []
    real = getattr(model.prior, method)

    def recording(*arguments: Any) -> Any:
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(model.prior, method, recording)
    return calls
