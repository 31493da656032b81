"""Code layouts and networks: shapes, order, and what their configuration refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from torch import nn

from anytime_ar.autoencoder import (
    IMAGE_PRESETS,
    AutoencoderConfig,
    NetworkConfig,
    OrderedAutoencoder,
)
from anytime_ar.autoencoder.layouts import (
    ChannelLayout,
    Layout,
    ProjectionLayout,
    SegmentLayout,
    SpatialLayout,
)
from anytime_ar.errors import InputError


def build(values: dict[str, Any], side: int = 8, channels: int = 1) -> OrderedAutoencoder:
    config = AutoencoderConfig.parse(values, origin="test")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return OrderedAutoencoder(config, (channels, side, side)).eval()


TINY = {"patch": 2, "widths": [4, 6], "blocks": 1, "hidden": 8}


@pytest.mark.parametrize(
    ("layout", "features", "length", "width"),
    [(ChannelLayout(5, (3, 3)), 5, 5, 9), (SpatialLayout(4, (3, 3)), 4, 9, 4)],
)
def test_layouts_are_inverses(layout: Layout, features: int, length: int, width: int) -> None:
    x = torch.randn(2, features, 3, 3, generator=torch.Generator().manual_seed(0))
    vectors = layout.to_vectors(x)
    assert vectors.shape == (2, length, width)
    assert torch.equal(layout.to_features(vectors), x)
    assert layout.features == features


@pytest.mark.parametrize(("shape", "axis"), [((6,), 0), ((6, 6), 0), ((6, 6), 1)])
@pytest.mark.parametrize("hidden", [0, 7])
def test_segments_are_told_apart_by_their_place_alone(
    shape: tuple[int, ...], axis: int, hidden: int
) -> None:
    grid = (3,) * len(shape)  # segments of two positions along each axis
    layout = SegmentLayout(2, 4, 3 ** len(shape), 5, features=2, shape=shape, hidden=hidden)
    x = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(0))
    moved = x.roll(2, dims=2 + axis)  # by one segment
    vectors = layout.to_vectors(x)
    assert vectors.shape == (1, 2 + 4 * 3 ** len(shape), 5)
    levels = vectors[:, 2:].unflatten(1, (4, *grid))
    torch.testing.assert_close(
        layout.to_vectors(moved)[:, 2:].unflatten(1, (4, *grid)), levels.roll(1, dims=2 + axis)
    )
    whole, parts = vectors[:, :2], levels.roll(1, dims=2 + axis).flatten(1, -2)
    still = layout.to_features(torch.cat([whole, torch.zeros_like(parts)], dim=1))
    made = layout.to_features(vectors) - layout.to_features(torch.cat([whole, 0 * parts], dim=1))
    shifted = layout.to_features(torch.cat([whole, parts], dim=1)) - still
    torch.testing.assert_close(shifted, made.roll(2, dims=2 + axis))


@pytest.mark.parametrize("lapped", [False, True])
@pytest.mark.parametrize(("segments", "shape"), [(3, (6,)), (9, (6, 6)), (4, (8, 8))])
def test_parts_are_blocks_row_by_row(segments: int, shape: tuple[int, ...], lapped: bool) -> None:
    layout = SegmentLayout(0, 1, segments, 5, features=2, shape=shape, hidden=0, overlapping=lapped)
    x = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(0))
    parts = layout.split_segments(x)
    torch.testing.assert_close(layout.join_segments(parts), x)
    torch.testing.assert_close(parts.square().sum(), x.square().sum())
    if len(shape) == 2 and not lapped:
        side = shape[0] // layout.grid[0]
        assert torch.equal(parts[0, 1], x[0, :, :side, side : 2 * side].flatten())
        below = x[0, :, side : 2 * side, :side].flatten()
        assert torch.equal(parts[0, layout.grid[0]], below)


def test_a_code_of_a_segment_changes_its_segment_alone_and_one_of_the_whole_everything() -> None:
    layout = SegmentLayout(2, 4, 3, 5, features=2, shape=(6,), hidden=0)
    zero = torch.zeros(1, 14, 5)

    def touched(position: int) -> list[int]:
        vectors = zero.clone()
        vectors[0, position] = 1.0
        changed = layout.to_features(vectors) != layout.to_features(zero)
        return sorted(set(changed[0].any(0).nonzero().flatten().tolist()))

    assert touched(0) == touched(1) == [0, 1, 2, 3, 4, 5]
    for level in range(4):
        for segment in range(3):
            assert touched(2 + 3 * level + segment) == [2 * segment, 2 * segment + 1]


@pytest.mark.parametrize("hidden", [0, 7])
def test_vector_layout(hidden: int) -> None:
    layout = ProjectionLayout(5, 2, features=3, shape=(4, 4), hidden=hidden)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    vectors = layout.to_vectors(x)
    assert vectors.shape == (2, 5, 2)
    assert layout.to_features(vectors).shape == x.shape


def test_channel_codes_are_channels_and_spatial_codes_are_positions() -> None:
    x = torch.arange(2 * 3 * 3.0).reshape(1, 2, 3, 3)
    assert torch.equal(ChannelLayout(2, (3, 3)).to_vectors(x)[0, 1], x[0, 1].flatten())
    assert torch.equal(
        SpatialLayout(2, (3, 3)).to_vectors(x)[0, 5], x[0, :, 1, 2]
    )  # row 1, column 2


@pytest.mark.parametrize("position", range(4))
def test_spatial_codes_look_at_their_own_patch_in_raster_order(position: int) -> None:
    model = build(
        {
            "layout": "spatial",
            "code_width": 3,
            "network": {"patch": 4, "widths": [6], "blocks": 0},
        }
    )
    # A 3x3 convolution over 4x4 patches sees their neighbours; its middle alone does not.
    for module in model.encoder.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            with torch.no_grad():
                middle = module.weight[:, :, 1, 1].clone()
                module.weight.zero_()
                module.weight[:, :, 1, 1] = middle
    x = torch.zeros(1, 1, 8, 8)
    row, column = divmod(position, 2)
    moved = x.clone()
    moved[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1.0
    changed = (model.encode_vectors(moved) != model.encode_vectors(x)).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [position]


@pytest.mark.parametrize("side", sorted(IMAGE_PRESETS))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", ["channel", "spatial", "projection"])
def test_presets(side: int, channels: int, layout: str) -> None:
    values: dict[str, Any] = {"layout": layout, "quantizer": {"vocabulary": 4}}
    if layout != "spatial":
        values["code_length"] = 3
    if layout != "channel":
        values["code_width"] = 2
    model = build(values, side, channels)
    positions = (side // IMAGE_PRESETS[side].stride) ** 2
    length, width = {
        "channel": (3, positions),
        "spatial": (positions, 2),
        "projection": (3, 2),
    }[layout]
    assert (model.code_length, model.code_width, model.vocabulary) == (length, width, 4)
    x = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = model.encode(x)
    assert codes.shape == (2, length)
    assert codes.dtype == torch.int64
    decoded = model.decode(codes[:, :1])
    assert decoded.shape == x.shape
    assert decoded.dtype == torch.float32
    assert decoded.abs().max() <= 1


@pytest.mark.parametrize("side", [4, 12, 20])
def test_any_side_that_the_stride_divides(side: int) -> None:
    model = build({"code_length": 3, "code_width": 2, "network": TINY}, side)
    x = torch.zeros(1, 1, side, side)
    assert model.decode(model.encode(x)).shape == x.shape


def test_stride() -> None:
    assert NetworkConfig(patch=2, widths=(4, 6, 8)).stride == 8
    assert NetworkConfig(patch=1, widths=(4,)).stride == 1


@pytest.mark.parametrize(
    ("values", "shape", "message"),
    [
        ({"code_length": 3}, (1, 8, 8), "autoencoder.code_width is needed for layout=projection"),
        ({"code_width": 3}, (1, 8, 8), "autoencoder.code_length is needed for layout=projection"),
        ({"layout": "channel"}, (1, 8, 8), "code_length is needed for layout=channel"),
        ({"layout": "spatial"}, (1, 8, 8), "code_width is needed for layout=spatial"),
        (
            {"layout": "spatial", "code_width": 2, "code_length": 5},
            (1, 8, 8),
            "code_length is 5, but layout=spatial gives 16; drop it",
        ),
        (
            {"layout": "channel", "code_width": 2, "code_length": 5},
            (1, 8, 8),
            "code_width is 2, but layout=channel gives 16; drop it",
        ),
        (
            {"code_length": 3, "code_width": 8, "quantizer": {"kind": "fsq", "levels": [4, 4]}},
            (1, 8, 8),
            "code_width is 8, but quantizer.kind=fsq gives 2; drop it or set it to null",
        ),
        (
            {"code_length": 3, "code_width": 2},
            (1, 8, 6),
            r"no network preset for 8x6 images .* '\{patch: 1, widths: \[32, 64\], blocks: 1\}'",
        ),
        (
            {"layout": "segment", "segments": 4, "code_length": 7, "code_width": 2},
            (1, 8, 16),
            "segments is 4, and a map of 4x8 positions has equal parts for 1, 2, 8, 32; choose one",
        ),
        (
            {"layout": "segment", "segments": 3, "code_length": 7, "code_width": 2},
            (1, 8, 8),
            "segments is 3, and a map of 4x4 positions has equal parts for 1, 4, 16; choose one",
        ),
        (
            {"layout": "segment", "segments": 4, "code_length": 7, "code_width": 2},
            (1, 8, 8),
            "code_length is 7: 1 for the whole leave no .* of 4 segments; set it to 5 or 9",
        ),
        (
            {"code_length": 3, "code_width": 2},
            (1, 9, 9),
            r"no network preset for 9x9 images \(there are \[8, 28, 32, 64\]\); set data.size to "
            r"one of these, or --autoencoder.network '\{patch: 1, widths: \[64\], blocks: 1\}'",
        ),
        (
            {"code_length": 3, "code_width": 2, "network": TINY},
            (1, 10, 10),
            "10x10 images are not divisible by the network's stride 4, but 8x8 and 12x12 are; ",
        ),
        (
            {"code_length": 3, "code_width": 2, "network": TINY},
            (1, 8, 13),
            "8x13 images are not divisible by the network's stride 4, but 8x12 and 8x16 are; "
            "change data.size or autoencoder.network",
        ),
        (
            {"layout": "channel", "code_length": 3, "quantizer": {"kind": "fsq", "levels": [5, 5]}},
            (1, 8, 8),
            "fsq has 2 levels, a channel holds 16 values",
        ),
    ],
)
def test_what_does_not_fit(
    values: dict[str, Any], shape: tuple[int, int, int], message: str
) -> None:
    config = AutoencoderConfig.parse(values, origin="test")
    with pytest.raises(InputError, match=message):
        OrderedAutoencoder(config, shape)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"layout": "linear", "network": {"patch": 2}},
            r"network is \{'patch': 2\}, a setting of layout=channel or .*, not of linear; drop it",
        ),
        ({"network": {"widths": [4, 0]}}, r"network.widths.1: .*greater than 0 \(got 0\)"),
        ({"network": {"widths": []}}, "network.widths"),
        ({"length": 3}, r"length: extra inputs are not permitted \(got 3\)"),
        ({"code_length": 0, "fill": "ones"}, "code_length: .*; fill: "),
        ({"quantizer": {"vocabulary": 2**16 + 1}}, r"equal to 65536 \(got 65537\)"),
        (
            {"quantizer": {"kind": "fsq", "levels": [350, 350, 350]}},
            r"at most 65,536 codebook entries, and the levels \[350, 350, 350\] make more",
        ),
    ],
)
def test_bad_config(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AutoencoderConfig.parse(values, origin="test")


@pytest.mark.parametrize(
    "layout",
    [
        {"layout": "projection", "code_length": 5, "code_width": 2, "linear_skip": True},
        {"layout": "channel", "code_length": 5},
        {"layout": "spatial", "code_width": 2},
        {"layout": "residual_vq", "code_length": 16, "code_width": 2, "scan_order": "bayer"},
        {
            "layout": "segment",
            "code_length": 5,
            "code_width": 2,
            "segments": 2,
            "linear_skip": True,
        },
        {"layout": "lapped_segment", "code_length": 8, "code_width": 2, "segments": 8},
        {"layout": "linear", "code_length": 5, "code_width": 2},
    ],
)
@pytest.mark.parametrize("shape", [(4, 8, 16), (1, 16, 8)])
def test_images_need_not_be_square(layout: dict[str, Any], shape: tuple[int, int, int]) -> None:
    values = layout | ({} if layout["layout"] == "linear" else {"network": TINY})
    model = OrderedAutoencoder(AutoencoderConfig.parse(values, origin="test"), shape).eval()
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = model.encode(x)
    assert model.decode(codes[:, :1]).shape == x.shape
    vectors = model.encode_vectors(x)
    for row in (0, -1):  # each end of both axes is read
        for index in ((..., row), (..., row, slice(None))):
            changed = x.clone()
            changed[index] *= -1
            assert not torch.equal(model.encode_vectors(changed), vectors)


@pytest.mark.parametrize("side", [1, 2, 3, 9, 16, 17, 20, 48, 100, 128])
def test_the_network_that_an_error_proposes_fits(side: int) -> None:
    values: dict[str, Any] = {"code_length": 3, "code_width": 2}
    with pytest.raises(InputError, match="no network preset") as caught:
        AutoencoderConfig.parse(values, origin="test").resolve((1, side, side))
    proposed = yaml.safe_load(str(caught.value).split("--autoencoder.network '")[1][:-1])
    config = AutoencoderConfig.parse(values | {"network": proposed}, origin="test")
    resolved = config.resolve((1, side, side))
    parts = resolved.build((1, side, side))
    images = torch.zeros(2, 1, side, side)
    assert parts.decoder(parts.encoder(images)).shape == images.shape
