"""Sounds: networks in one dimension, and the same layouts, codes and prefixes as for images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from anytime_ar.autoencoder import (
    AutoencoderConfig,
    NetworkConfig,
    OrderedAutoencoder,
    make_decode_fn,
)
from anytime_ar.autoencoder.networks import (
    AudioDecoder,
    AudioEncoder,
    AudioResidualBlock,
    PixelShuffle1d,
    PixelUnshuffle1d,
)
from anytime_ar.errors import InputError

SHAPE = (1, 256)
NETWORK = {"patch": 4, "widths": [6, 8], "downsample": 4, "blocks": 2, "hidden": 10}
LAYOUTS: dict[str, dict[str, Any]] = {
    "projection": {"code_length": 5, "code_width": 3, "quantizer": {"vocabulary": 6}},
    "channel": {"layout": "channel", "code_length": 5, "quantizer": {"vocabulary": 6}},
    "spatial": {"layout": "spatial", "code_width": 3, "quantizer": {"vocabulary": 6}},
}


def build(values: dict[str, Any], shape: tuple[int, ...] = SHAPE) -> OrderedAutoencoder:
    config = AutoencoderConfig.parse({"network": NETWORK, **values}, origin="test")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OrderedAutoencoder(config, shape).eval()
        with torch.no_grad():  # fill and residual branches away from zero
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
            model.quantizer.get_buffer("codebooks").normal_()
    return model


def sounds(n: int = 3, length: int = SHAPE[1]) -> Tensor:
    return torch.rand(n, 1, length, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_folding_by_hand() -> None:
    x = torch.arange(12.0).view(1, 2, 6)
    folded = PixelUnshuffle1d(3)(x)
    assert folded.shape == (1, 6, 2)
    assert folded[0, :, 1].tolist() == [3, 4, 5, 9, 10, 11]  # what lies at the second position
    assert torch.equal(PixelShuffle1d(3)(folded), x)


def test_networks_keep_time_in_place() -> None:
    """A feature sees samples around its own position, and decodes to them."""
    config = NetworkConfig(patch=4, widths=(6, 8), downsample=4, blocks=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, decoder = AudioEncoder(config, 1, 5).eval(), AudioDecoder(config, 1, 5).eval()
    x = sounds(1, 1024)
    features = encoder(x)
    assert features.shape == (1, 5, 64)
    assert decoder(features).shape == x.shape
    x[:, :, 512:528] += 1  # position 32
    moved = (encoder(x) - features).abs().amax(dim=(0, 1)).nonzero().flatten()
    assert 32 in moved
    assert moved.min() >= 29
    assert moved.max() <= 35
    features[:, :, 20] += 1
    changed = (decoder(features) - decoder(encoder(x))).abs().amax(dim=(0, 1))
    assert changed[20 * 16 : 21 * 16].max() > 0


def test_a_block_starts_as_the_identity() -> None:
    x = sounds().expand(-1, 4, -1)
    assert torch.equal(AudioResidualBlock(4, dilation=9)(x), x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_prefix_decodes_to_a_sound(layout: str) -> None:
    model = build(LAYOUTS[layout])
    x = sounds()
    codes = model.encode(x)
    assert codes.shape == (3, model.code_length)
    assert model.code_length == (16 if layout == "spatial" else 5)
    decoded = [model.decode(codes[:, :k]) for k in range(1, model.code_length + 1)]
    assert all(y.shape == x.shape and y.abs().max() <= 1 for y in decoded)
    assert len({y.sum().item() for y in decoded}) == model.code_length
    assert torch.equal(make_decode_fn(model)(codes), decoded[-1])  # the kernel knows images only


def test_the_preset_for_sounds() -> None:
    values = {"code_length": 4, "code_width": 3, "quantizer": {"vocabulary": 5}, "network": None}
    model = build(values, (1, 1024))
    assert model.decode(model.encode(sounds(1, 1024))).shape == (1, 1, 1024)


@pytest.mark.parametrize(
    ("shape", "network", "message"),
    [
        (
            (1, 250),
            NETWORK,
            "clips of 250 samples are not divisible by the network's stride 16, but 240 and 256 "
            "are; change data.audio.length_multiple, the length of the series, or autoenc",
        ),
        ((1, 16, 16), NETWORK, "autoencoder.network.downsample is 4, and images have 2; drop it"),
    ],
)
def test_shapes_that_do_not_fit(
    shape: tuple[int, ...], network: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build({**LAYOUTS["projection"], "network": network}, shape)
