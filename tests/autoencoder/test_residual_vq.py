"""Residual quantization: a position has several codes, each for what those before it left."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anytime_ar.autoencoder import AutoencoderConfig, OrderedAutoencoder
from anytime_ar.autoencoder.layouts import bayer_order
from anytime_ar.errors import InputError

LEVELS, POSITIONS, D, V = 3, 4, 5, 8
PLACES = [0, 3, 1, 2]
"""A corner, the one across, and those between."""
VALUES: dict[str, Any] = {
    "layout": "residual_vq",
    "scan_order": "bayer",
    "code_length": LEVELS * POSITIONS,
    "code_width": D,
    "fill": "zeros",
    "quantizer": {"vocabulary": V, "dead_code_threshold": 0},
    "network": {"patch": 2, "widths": [4, 6], "blocks": 1},
}


def images(count: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def model() -> OrderedAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = OrderedAutoencoder(AutoencoderConfig.parse(VALUES, origin="test"), (1, 8, 8))
    made.init_codebooks([images()], torch.Generator().manual_seed(0))
    return made.eval()


@torch.no_grad()
def positions(model: OrderedAutoencoder, x: Tensor) -> Tensor:
    """What the encoder says of each, in the order of codes: float32 [B, P, D]."""
    vectors: Tensor = model.encoder(x)
    return vectors.flatten(2).mT[:, PLACES]


def test_codes_are_those_of_one_level_after_the_other(model: OrderedAutoencoder) -> None:
    x = images(seed=1)
    entries = model.codebook_vectors().unflatten(0, (LEVELS, POSITIONS))  # [M, P, V, D]
    left, expected = positions(model, x), []
    for level in range(LEVELS):
        assert torch.equal(entries[level, 0], entries[level, 1])  # one codebook a level
        nearest = torch.cdist(left, entries[level, 0]).argmin(-1)  # [B, P]
        left = left - entries[level, 0][nearest]
        expected.append(nearest)
    assert torch.equal(model.encode(x), torch.cat(expected, dim=1))


def test_positions_row_by_row_are_the_same_codes_in_another_order(
    model: OrderedAutoencoder,
) -> None:
    rows = OrderedAutoencoder(
        AutoencoderConfig.parse(VALUES | {"scan_order": "raster"}, origin="test"), (1, 8, 8)
    )
    rows.load_state_dict(model.state_dict())
    x = images(seed=1)
    spread_out, codes = model.encode(x), rows.eval().encode(x)
    levels = codes.unflatten(1, (LEVELS, POSITIONS))
    assert torch.equal(levels[:, :, PLACES].flatten(1), spread_out)
    torch.testing.assert_close(rows.decode(codes), model.decode(spread_out))


def test_a_prefix_is_a_sum_of_what_there_is(model: OrderedAutoencoder) -> None:
    codes = model.encode(images(seed=1))
    kept = POSITIONS + 1  # the first level, and one position of the second
    entries = model.quantizer.lookup(codes)
    total = torch.zeros_like(entries[:, :POSITIONS])
    total[:, PLACES] = entries[:, :POSITIONS]
    total[:, PLACES[0]] += entries[:, POSITIONS]
    with torch.no_grad():
        expected = model.decoder(total.mT.unflatten(2, (2, 2))).clamp(-1, 1)
    torch.testing.assert_close(model.decode(codes[:, :kept]), expected)


@pytest.mark.parametrize(
    ("shape", "apart"),
    [((4, 4), {4: 2}), ((8, 8), {4: 4, 16: 2}), ((7, 7), {4: 4, 16: 2}), ((8,), {2: 4, 4: 2})],
)
def test_the_first_few_positions_are_spread(shape: tuple[int, ...], apart: dict[int, int]) -> None:
    places = bayer_order(shape)
    assert places.sort().values.tolist() == [*range(math.prod(shape))]
    where = torch.stack(torch.unravel_index(places, shape), dim=1)  # [P, axes]
    for first, least in apart.items():
        distances = (where[:first, None] - where[None, :first]).abs().amax(2)
        distances.fill_diagonal_(max(shape))
        assert distances.min() == least


def test_each_level_of_the_start_leaves_less(model: OrderedAutoencoder) -> None:
    x = images()
    entries = model.quantizer.lookup(model.encode(x)).unflatten(1, (LEVELS, POSITIONS))
    left = positions(model, x)[:, None] - entries.cumsum(1)  # [B, M, P, D]
    errors = left.square().mean((0, 2, 3)).tolist()
    assert errors[0] > 1.3 * errors[1] > 1.3**2 * errors[2] > 0


def test_one_level_starts_as_the_clusters_of_its_vectors() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoencoderConfig.parse(VALUES | {"code_length": POSITIONS}, origin="test")
        model = OrderedAutoencoder(config, (1, 8, 8))
    x = images()
    model.init_codebooks([x], torch.Generator().manual_seed(0))
    model.eval()
    vectors = positions(model, x)
    left = vectors - model.quantizer.lookup(model.encode(x))
    spread = (vectors - vectors.mean((0, 1))).square().mean()
    assert left.square().mean() < 0.8 * spread


def test_the_encoder_learns_as_if_nothing_were_quantized(model: OrderedAutoencoder) -> None:
    vectors = model.encode_vectors(images()).detach().requires_grad_()
    every = torch.ones(vectors.shape[:2], dtype=torch.bool)
    quantized = model.quantizer(vectors, every).vectors
    model.layout.to_features(quantized).sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad[:, :POSITIONS] == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code_length": 10}, "code_length is 10, and the map has 4 positions.*; set it to 8"),
        (
            {"quantizer": {"error_feedback": False}},
            r"quantizer.error_feedback: input should be True \(got False\)",
        ),
        (
            {"quantizer": {"shared_codebook": True}},
            r"quantizer.shared_codebook: input should be False \(got True\)",
        ),
        (
            {"quantizer": {"kind": "fsq", "levels": [8, 5]}},
            "quantizer: kind is 'fsq', expected vq",
        ),
        (
            {"layout": "projection"},
            "scan_order is 'bayer', a setting of layout=residual_vq, not of projection; drop it",
        ),
    ],
)
def test_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AutoencoderConfig.parse(VALUES | changes, origin="test").resolve((1, 8, 8))
