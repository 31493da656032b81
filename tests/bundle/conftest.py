from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from anytime_ar.autoencoder import AutoencoderConfig
from anytime_ar.bundle.card import Card, DataCard
from anytime_ar.bundle.curve import Curve, CurvePoint
from anytime_ar.bundle.format import Bundle, attach_codebook, build_bundle, save_bundle
from anytime_ar.prior import PriorConfig

_IMAGES = {"sample_shape": (1, 8, 8)}
_SOUNDS = {"sample_shape": (1, 64), "sample_rate": 1000}
_SEGMENTS = {
    "layout": "lapped_segment",
    "segments": 1,
    "noise_bands": 2,
}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "images": (_IMAGES, {}, {}),
    "sounds": (
        _SOUNDS,
        _SEGMENTS,
        {
            "positions_per_table": 2,
            "embedding_width": 4,
            "condition_every_position": True,
            "codebook_features": 6,
        },
    ),
}
"""What differs in the card, between kinds of samples: data, autoencoder and prior."""


@pytest.fixture(params=list(KINDS))
def card(request: pytest.FixtureRequest) -> Card:
    """Every test of a bundle runs on one of images and on one of sounds."""
    data, autoencoder, prior = KINDS[request.param]
    return Card(
        name="tiny",
        data=DataCard(
            name="digits",
            labels=("zero", "one"),
            label_frequencies=(0.25, 0.75),
            **data,
        ),
        autoencoder=AutoencoderConfig.parse(
            {
                "code_length": 3,
                "code_width": 2,
                "quantizer": {"vocabulary": 4},
                "network": {"widths": [4, 8], "blocks": 1},
            }
            | autoencoder,
            origin="test",
        ),
        prior=PriorConfig(layers=1, width=8, heads=2, dropout=0.5, **prior),
        training={"seed": 7},
    )


@pytest.fixture
def bundle(card: Card) -> Bundle:
    """Random weights, none of them zero, and a curve."""
    fresh = build_bundle(card)
    generator = torch.Generator().manual_seed(0)
    networks = torch.nn.ModuleList([fresh.autoencoder, fresh.prior or torch.nn.Identity()])
    for value in networks.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    if fresh.prior is not None:
        attach_codebook(fresh.autoencoder, fresh.prior)
    point = CurvePoint(
        codes=3, mse=0.5, psnr=9.0, fd_reconstruction=1.0, fd_sample=2.0, bits=6.0, ms=None
    )
    curve = Curve(
        code_length=3,
        vocabulary=4,
        points=(point,),
        near_lossless_codes=3,
        fd_train=0.1,
        num_train_samples=1000,
        num_samples=1000,
        num_test_samples=1000,
        seed=0,
    )
    return Bundle(card, fresh.autoencoder.eval(), fresh.prior and fresh.prior.eval(), curve)


@pytest.fixture
def saved(tmp_path: Path, bundle: Bundle) -> Path:
    """A complete bundle on disk, alone in its folder's parent."""
    folder = tmp_path / "models" / "tiny"
    save_bundle(bundle, folder)
    return folder
