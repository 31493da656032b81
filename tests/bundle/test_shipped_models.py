"""The models that come with the package: small and whole, and they draw what is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import anytime_ar as aar
from anytime_ar.bundle.format import find_bundle, shipped_models
from anytime_ar.runtime.hub import parse_hub_ref

LARGEST = {"cifar10": 12_000_000, "fsdd": 8_000_000, "mnist": 8_000_000}
"""Bytes that a model may take."""


def test_what_is_shipped() -> None:
    assert shipped_models() == sorted(LARGEST)


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_is_small_and_measured(name: str) -> None:
    folder = find_bundle(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LARGEST[name]
    model = aar.load(name, device="cpu")
    assert model.curve is not None
    assert model.curve.points[-1].codes == model.code_length
    errors = [point.mse for point in model.curve.points]
    assert errors == sorted(errors, reverse=True)


def test_mnist_draws_what_is_asked_for() -> None:
    model = aar.load("mnist", device="cpu")
    assert model.labels == tuple("0123456789")
    x = model.sample(8, label=1, seed=0)
    assert x.shape == (8, 1, 28, 28)
    assert x.min() >= -1
    assert x.max() <= 1
    ink = ((x + 1) / 2).mean(dim=(1, 2, 3))
    zeros = ((model.sample(8, label="0", seed=0) + 1) / 2).mean(dim=(1, 2, 3))
    assert ink.mean() < 0.6 * zeros.mean()  # a one takes less ink than a zero


def test_cifar10_draws_what_is_asked_for() -> None:
    model = aar.load("cifar10", device="cpu")
    assert model.labels is not None
    assert "frog" in model.labels
    x = model.sample(8, label="ship", codes=48, seed=0)
    assert x.shape == (8, 3, 32, 32)
    frogs = model.sample(8, label="frog", codes=48, seed=0)
    # Ships are on blue seas, frogs on leaves and earth.
    blue, of_frogs = (y[:, 2].mean() - y[:, 0].mean() for y in (x, frogs))
    assert blue > of_frogs + 0.1


def test_fsdd_draws_what_is_asked_for() -> None:
    model = aar.load("fsdd", device="cpu")
    assert model.labels == tuple("0123456789")
    assert model.sample_rate == 8000
    x = model.sample(3, label=6, codes=112, seed=0)
    assert x.shape == (3, 1, 5120)
    assert (x.square().mean((1, 2)) > 1e-4).all()
    assert torch.equal(x, model.sample(3, label="6", codes=112, seed=0))


def test_no_shipped_file_names_a_path_outside_the_package() -> None:
    root = Path(aar.__file__).parent
    texts = [path for path in root.rglob("*") if path.suffix in (".json", ".yaml", ".py", ".md")]
    assert len(texts) > 100
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert "../" not in text, path
        assert "shared/data" not in text, path
    for name in ("mnist", "cifar10", "fsdd"):
        card = aar.load(name, device="cpu").bundle.card
        assert card.data.name == card.training["data"]["name"]
        assert parse_hub_ref(card.data.name) is not None
