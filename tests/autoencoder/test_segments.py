"""Codes of segments: shared codebooks, a linear path beside the networks, and the greedy start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exchanges import Alone
from torch import Tensor

from anytime_ar.autoencoder import AutoencoderConfig, OrderedAutoencoder
from anytime_ar.autoencoder.layouts import SegmentLayout, lapped_transform
from anytime_ar.autoencoder.native_decoder import make_decode_fn
from anytime_ar.autoencoder.quantizers import LevelQuantizer, VectorQuantizerConfig
from anytime_ar.errors import InputError

SEGMENTS, LEVELS, WIDTH, SIDE = 4, 3, 2, 64
NETWORK = {"patch": 2, "widths": [8, 12], "downsample": 4, "blocks": 1, "hidden": 6}


def config(**changes: Any) -> AutoencoderConfig:
    values: dict[str, Any] = {
        "layout": "lapped_segment",
        "segments": SEGMENTS,
        "code_length": SEGMENTS * LEVELS,
        "code_width": WIDTH,
        "quantizer": {"kind": "residual_pca", "vocabulary": 8},
        "network": NETWORK,
    }
    return AutoencoderConfig.parse(values | changes, origin="test")


def build(**changes: Any) -> OrderedAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return OrderedAutoencoder(config(**changes), (1, SIDE)).eval()


def sounds(n: int, seed: int = 0) -> Tensor:
    """Strong low frequencies, and noise: float32 [n, 1, 64]."""
    generator = torch.Generator().manual_seed(seed)
    phase, pace = torch.rand(2, n, 1, generator=generator)
    slow = torch.sin(6.3 * phase + (0.1 + 0.3 * pace) * torch.arange(SIDE))
    return (0.5 * slow + 0.05 * torch.randn(n, SIDE, generator=generator))[:, None]


def quantizer(whole: int) -> LevelQuantizer:
    made = LevelQuantizer(
        VectorQuantizerConfig(vocabulary=5),
        whole,
        levels=LEVELS,
        segments=SEGMENTS,
        code_width=WIDTH,
    )
    with torch.no_grad():
        for part in (made.global_quantizer, made.level_quantizer):
            if part is not None:
                part.codebooks.copy_(torch.randn_like(part.codebooks))
                part.embed_avg.copy_(part.codebooks)
                assert part.feedback is not None
                part.feedback.weight.copy_(0.3 * torch.randn_like(part.feedback.weight))
    return made


@pytest.mark.parametrize("whole", [0, 2])
def test_segments_share_codebooks_and_correct_their_own_errors_only(whole: int) -> None:
    torch.manual_seed(0)
    made = quantizer(whole).eval()
    vectors = torch.randn(3, whole + SEGMENTS * LEVELS, WIDTH)
    codes = made.encode(vectors)
    swapped = vectors.clone()
    by_level = swapped[:, whole:].unflatten(1, (LEVELS, SEGMENTS))  # a view
    by_level[:] = by_level.roll(1, dims=2)
    expected = codes.clone()
    levels = expected[:, whole:].unflatten(1, (LEVELS, SEGMENTS))
    levels[:] = levels.roll(1, dims=2)
    assert torch.equal(made.encode(swapped), expected)


@pytest.mark.parametrize("whole", [0, 2])
def test_every_prefix_is_looked_up_alike(whole: int) -> None:
    torch.manual_seed(0)
    made = quantizer(whole).eval()
    vectors = torch.randn(3, whole + SEGMENTS * LEVELS, WIDTH)
    every = torch.ones(vectors.shape[:2], dtype=torch.bool)
    found = made(vectors, every)
    assert torch.equal(found.codes, made.encode(vectors))
    for k in range(1, vectors.shape[1] + 1):
        torch.testing.assert_close(made.lookup(found.codes[:, :k]), found.vectors[:, :k])


def test_only_kept_codes_move_codebooks() -> None:
    torch.manual_seed(0)
    made = quantizer(whole=2).train()
    assert made.global_quantizer is not None
    before = made.global_quantizer.codebooks.clone(), made.level_quantizer.codebooks.clone()
    vectors = torch.randn(8, 2 + SEGMENTS * LEVELS, WIDTH)
    kept = torch.arange(vectors.shape[1]).expand(8, -1) < 2 + SEGMENTS  # the whole and one level
    made(vectors, kept)
    made.update_codebooks(torch.Generator().manual_seed(0), Alone())
    assert not torch.allclose(made.global_quantizer.codebooks, before[0], atol=1e-5)
    changed = ((made.level_quantizer.codebooks - before[1]).abs() > 1e-5).flatten(1).any(1)
    assert changed.tolist() == [True, False, False]


def test_features_are_the_sum_of_what_the_whole_and_the_segments_decode_to() -> None:
    torch.manual_seed(0)
    layout = SegmentLayout(2, LEVELS, SEGMENTS, WIDTH, features=3, shape=(8, 8), hidden=0)
    assert layout.expand is not None
    vectors = torch.randn(5, 2 + SEGMENTS * LEVELS, WIDTH)
    whole = layout.expand(vectors[:, :2].flatten(1)).unflatten(1, (3, 8, 8))
    parts = vectors[:, 2:].unflatten(1, (LEVELS, SEGMENTS)).transpose(1, 2).flatten(2)
    segments = layout.join_segments(layout.expand_part(parts))
    torch.testing.assert_close(layout.to_features(vectors), whole + segments)


def test_the_networks_start_without_a_say() -> None:
    model, x = build(), sounds(5)
    assert model.linear_skip is not None
    assert torch.equal(model.encode_vectors(x), model.linear_skip.to_vectors(x))
    vectors = torch.randn(5, model.code_length, WIDTH)
    every = torch.full((5,), model.code_length)
    made = model.decode_vectors(vectors, every).samples
    assert torch.equal(made, model.linear_skip.to_features(vectors))


def test_the_residual_pca_init_is_a_residual_quantizer() -> None:
    """Level by level as its definition says, and not by the unrolled maps that the model has."""
    model, x = build(), sounds(300)
    model.init_codebooks([x[:200], x[200:]], torch.Generator().manual_seed(0))
    assert isinstance(model.quantizer, LevelQuantizer)
    basis = model.linear_skip.expand_part.linear.weight.unflatten(1, (LEVELS, WIDTH))  # [P, M, D]
    left = model.linear_skip.split_segments(x).flatten(0, 1)  # [N * S, P]
    codes = model.encode(x).view(300, LEVELS, SEGMENTS).transpose(1, 2).flatten(0, 1)  # [N * S, M]
    powers = [left.square().mean().item()]
    for level in range(LEVELS):
        directions = basis[:, level]
        torch.testing.assert_close(directions.T @ directions, torch.eye(WIDTH))
        entries = model.quantizer.level_quantizer.codebooks[level]
        distances = torch.cdist(left @ directions, entries)
        chosen = distances.gather(1, codes[:, level, None])[:, 0]
        torch.testing.assert_close(chosen, distances.min(1).values, atol=1e-5, rtol=0)
        left = left - entries[codes[:, level]] @ directions.T
        powers.append(left.square().mean().item())
        k = SEGMENTS * (level + 1)
        made = model.decode(model.encode(x)[:, :k])
        assert (made - x).square().mean().item() == pytest.approx(powers[-1], rel=1e-4)
    assert powers[1] < 0.6 * powers[0]
    assert sorted(powers, reverse=True) == powers


def test_the_residual_pca_init_follows_its_seed() -> None:
    x = sounds(300)
    models = [build() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        model.init_codebooks([x], torch.Generator().manual_seed(seed))
    books = [model.quantizer.state_dict()["level_quantizer.codebooks"] for model in models]
    assert torch.equal(books[0], books[1])
    assert not torch.equal(books[0], books[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "segment"}, "kind is 'residual_pca', expected fsq or none or vq"),
        ({"layout": "projection", "segments": 1}, "kind is 'residual_pca', expected fsq or"),
        (
            {"quantizer": {"kind": "residual_pca", "error_feedback": False}},
            "error_feedback is False, a setting of kind=vq, not of residual_pca; drop it",
        ),
        (
            {"quantizer": {"kind": "residual_pca", "shared_codebook": True}},
            "shared_codebook is True, a setting of kind=vq, not of residual_pca; drop it",
        ),
    ],
)
def test_what_a_residual_pca_init_needs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"quantizer: {message}"):
        config(**changes)


@pytest.mark.parametrize("layout", ["channel", "spatial", "residual_vq", "linear"])
def test_a_linear_skip_needs_vectors(layout: str) -> None:
    message = f"linear_skip is True, a setting of layout=projection or segment, not of {layout}"
    with pytest.raises(InputError, match=message):
        AutoencoderConfig.parse({"layout": layout, "linear_skip": True}, origin="test")


@torch.no_grad()
def test_a_linear_skip_beside_networks_for_images() -> None:
    values = {
        "layout": "projection",
        "linear_skip": True,
        "code_length": 5,
        "code_width": 2,
        "quantizer": {"vocabulary": 4},
        "network": {"patch": 2, "widths": [4], "blocks": 1, "hidden": 6},
    }
    model = OrderedAutoencoder(AutoencoderConfig.parse(values, origin="test"), (1, 8, 8)).eval()
    assert model.linear_skip is not None
    x = torch.rand(3, 1, 8, 8) * 2 - 1
    codes = model.encode(x)
    assert model.decode(codes[:, :2]).shape == x.shape
    # the kernel does not know this path
    assert make_decode_fn(model, "native") == model.decode


@pytest.mark.parametrize("shape", [(2, 24), (1, 28, 3), (3, 12), (1, 4)])
def test_laps_are_orthogonal_and_undone(shape: tuple[int, ...]) -> None:
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    turned = lapped_transform(x, 4)
    assert turned.shape == x.shape
    torch.testing.assert_close(turned.square().sum((1, 2)), x.square().sum((1, 2)))
    torch.testing.assert_close(lapped_transform(turned, 4, inverse=True), x)
    assert torch.equal(lapped_transform(x, 1), x)


def test_what_one_segment_adds_fades_out_in_its_neighbours() -> None:
    alone = torch.zeros(1, 1, 64)
    alone[:, :, 16:32] = torch.sin(torch.pi * (torch.arange(16) + 0.5) / 32)  # odd there, even here
    made = lapped_transform(alone, 4, inverse=True)[0, 0]
    reached = made.abs() > 1e-6
    assert reached[8:40].all()
    assert not reached[:8].any()
    assert not reached[40:].any()
    jumps = made.diff().abs()
    assert jumps[[15, 31]].max() < 1.5 * jumps[17:30].max()  # no click at either border
    assert alone[0, 0].diff().abs()[31] > 4 * jumps.max()  # which there was
