"""The ordered autoencoder: any prefix decodes, and what cannot be decoded is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from anytime_ar.autoencoder import AutoencoderConfig, OrderedAutoencoder, truncate
from anytime_ar.errors import InputError

L, V = 5, 6
KINDS: dict[str, dict[str, Any]] = {
    "projection": {"code_length": L, "code_width": 3, "quantizer": {"vocabulary": V}},
    "channel": {"layout": "channel", "code_length": L, "quantizer": {"vocabulary": V}},
    "shared": {
        "code_length": L,
        "code_width": 3,
        "quantizer": {"vocabulary": V, "shared_codebook": True},
        "fill": "zeros",
    },
    "grid": {"code_length": L, "quantizer": {"kind": "fsq", "levels": [3, 4]}},
}


def build(kind: str) -> OrderedAutoencoder:
    network = {"patch": 2, "widths": [4, 6], "blocks": 1, "hidden": 8}
    config = AutoencoderConfig.parse({**KINDS[kind], "network": network}, origin="test")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OrderedAutoencoder(config, (1, 8, 8)).eval()
        with torch.no_grad():
            for weight in model.parameters():  # fill and residual branches away from zero
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def images(n: int = 4) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_prefix_decodes_like_kept_vectors(kind: str) -> None:
    model = build(kind)
    codes = model.encode(images())
    vectors = model.quantizer.lookup(codes)
    outputs = []
    for k in range(1, L + 1):
        x = model.decode(codes[:, :k])
        kept = torch.full((4,), k)
        with torch.no_grad():
            expected = model.decode_vectors(vectors, kept).samples
            masked = model.decoder(model.layout.to_features(truncate(vectors, kept, model.fill)))
        torch.testing.assert_close(x, expected.clamp(-1, 1))
        torch.testing.assert_close(x, masked.clamp(-1, 1))
        outputs.append(x)
    for one, more in pairwise(outputs):
        assert not torch.equal(one, more)


def test_prefixes_of_different_length_in_one_batch() -> None:
    model = build("projection")
    vectors = model.quantizer.lookup(model.encode(images()))
    kept = torch.tensor([1, 5, 2, 3])
    with torch.no_grad():
        together = model.decode_vectors(vectors, kept).samples
        for row, k in enumerate(kept):
            alone = model.decode_vectors(vectors[row : row + 1], k[None]).samples
            torch.testing.assert_close(together[row : row + 1], alone)


def test_codes_after_the_prefix_do_not_matter() -> None:
    model = build("projection")
    vectors = model.quantizer.lookup(model.encode(images()))
    other = vectors.clone()
    other[:, 2:] += 9
    kept = torch.full((4,), 2)
    with torch.no_grad():
        for same in (True, False):
            one, two = (model.decode_vectors(given, kept).samples for given in (vectors, other))
            assert torch.equal(one, two) == same
            kept = kept + 1


def test_fill_is_learned_or_zero() -> None:
    learned, zeros = build("projection"), build("shared")
    assert "fill" in dict(learned.named_parameters())
    assert "fill" not in zeros.state_dict()
    assert zeros.fill.abs().max() == 0


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 6, dtype=torch.int64), "prefix 6 exceeds code length 5; pass k <= 5"),
        (torch.zeros(2, 0, dtype=torch.int64), "prefix 0 holds no code; pass 1 <= k <= 5"),
        (torch.zeros(5, dtype=torch.int64), r"codes have shape \[5\]; pass \[B, k\]"),
        (torch.zeros(2, 3), "codes are torch.float32; pass torch.int64"),
        (torch.tensor([[0, 6]]), r"code 6 at row 0, position 1 is out of range; .* 0..5"),
        (torch.tensor([[0], [-1]]), "code -1 at row 1, position 0"),
    ],
)
def test_bad_codes(codes: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build("projection").decode(codes)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"shape \(2, 3, 8, 8\); pass float32 \[B, 1, 8, 8\]"),
        (torch.zeros(1, 8, 8), r"shape \(1, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"torch.uint8 tensor .*; pass float32"),
    ],
)
def test_bad_images(x: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build("projection").encode(x)


def test_weights_survive_a_state_dict() -> None:
    model, other = (
        build("projection"),
        OrderedAutoencoder(build("projection").config, (1, 8, 8)).eval(),
    )
    other.load_state_dict(model.state_dict())
    codes = model.encode(images())
    assert torch.equal(other.encode(images()), codes)
    assert torch.equal(other.decode(codes[:, :2]), model.decode(codes[:, :2]))
