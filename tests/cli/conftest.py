"""Models that the commands run on, which tests leave as they are, and a cache of the tests' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.format import build_bundle, save_bundle
from anytime_ar.cli import main
from caches import make_cache_with_kernel
from cli.command_line import RATE, TINY, WINDOW, add, write_config


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Measured times stay out of the home of whoever runs the tests."""
    monkeypatch.setenv(
        "XDG_CACHE_HOME", str(make_cache_with_kernel(tmp_path_factory.mktemp("cache")))
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A tiny run and its features, trained through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    main(["train", "digits", *TINY, "--out", str(folder / "run")])
    main(["train", "digits", *TINY, "--prior", "null", "--out", str(folder / "codec")])
    main(["train-classifier", "digits", *TINY, "--out", str(folder / "features")])
    return folder


@pytest.fixture(scope="session")
def sounds(tmp_path_factory) -> str:
    """A tiny model of sounds with random weights, as trained on clips of one peak."""
    values = {
        "name": "beeps",
        "data": {
            "name": "none",
            "sample_shape": (1, WINDOW),
            "sample_rate": RATE,
            "normalize": "peak",
        },
        "autoencoder": {
            "code_length": 4,
            "code_width": 2,
            "quantizer": {"vocabulary": 8},
            "network": {"patch": 4, "widths": [4, 8], "blocks": 0, "hidden": 8},
        },
        "prior": {"layers": 1, "width": 8, "heads": 2},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bundle = build_bundle(Card.parse(values, origin="test"))
        bundle.autoencoder.quantizer.get_buffer("codebooks").normal_()
    folder = tmp_path_factory.mktemp("sounds") / "beeps"
    save_bundle(bundle, folder)
    return str(folder)


@pytest.fixture(scope="session")
def measured(tmp_path_factory) -> Path:
    """A whole run with features."""
    folder = tmp_path_factory.mktemp("measured")
    add(folder / "data" / "a", 0, 20)
    add(folder / "data" / "b", 0, 20)
    config = write_config(folder)
    main(["train", config, "--out", str(folder / "run"), "--device", "cpu"])
    main(["train-classifier", config, "--out", str(folder / "features"), "--device", "cpu"])
    return folder
