"""Code layouts: conversion between a feature map and L code vectors of width D.

Maps are [B, F, *shape]: two-dimensional for images, one-dimensional for audio.

`ChannelLayout` is the paper's (section 3.2): a code is a flattened latent channel. `SpatialLayout`
is the ordinary VQ-VAE: a code is a position, in raster order. `ResidualVQLayout` has several codes
for each position and adds their vectors. `ProjectionLayout` projects the whole map to L vectors, so
that the code width does not depend on the map. `SegmentLayout` projects the whole map, and then
each segment of it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn


class Layout(nn.Module):
    """A conversion from features [B, F, *shape] to code vectors [B, L, D] and back."""

    features: int
    """F, the number of channels of the feature map."""

    def to_vectors(self, features: Tensor) -> Tensor:
        """Convert features to code vectors: float [B, F, *shape] -> [B, L, D]."""
        raise NotImplementedError

    def to_features(self, vectors: Tensor) -> Tensor:
        """Convert code vectors to features: float [B, L, D] -> [B, F, *shape]."""
        raise NotImplementedError

    def zero_init_vectors(self) -> None:
        """Zero the last layers of the map to code vectors, if it is learned."""

    def loudness(self, x: Tensor) -> Tensor | None:  # noqa: ARG002
        """Measure the loudness of each band of audio; None: codes do not carry it."""
        return None

    def decoded_loudness(self, vectors: Tensor) -> Tensor | None:  # noqa: ARG002
        """Decode the loudness of each band; None: codes do not carry it."""
        return None

    def fill_noise(self, x: Tensor, loudness: Tensor) -> Tensor:  # noqa: ARG002
        """Add noise to audio where it lacks loudness, if codes carry it."""
        return x


class IdentityLayout(Layout):
    """Layout of networks that compute code vectors themselves: features are vectors [B, L, D]."""

    def to_vectors(self, features: Tensor) -> Tensor:
        """Return the features, which are the code vectors."""
        return features

    def to_features(self, vectors: Tensor) -> Tensor:
        """Return the code vectors, which are the features."""
        return vectors


class ChannelLayout(Layout):
    """Layout with F = L channels, where a code describes all D values of one channel.

    Args:
        code_length: L.
        shape: sides of the feature map, whose product is D.
    """

    def __init__(self, code_length: int, shape: tuple[int, ...]) -> None:
        """Set the number of channels and the shape."""
        super().__init__()
        self.features, self.shape = code_length, shape

    def to_vectors(self, features: Tensor) -> Tensor:
        """Flatten each channel to one code vector."""
        return features.flatten(2)

    def to_features(self, vectors: Tensor) -> Tensor:
        """Restore the shape of each channel."""
        return vectors.unflatten(2, self.shape)


class SpatialLayout(Layout):
    """Layout with F = D channels, where a code describes one of the L positions in raster order.

    Args:
        code_width: D.
        shape: sides of the feature map, whose product is L.
    """

    def __init__(self, code_width: int, shape: tuple[int, ...]) -> None:
        """Set the number of channels and the shape."""
        super().__init__()
        self.features, self.shape = code_width, shape

    def to_vectors(self, features: Tensor) -> Tensor:
        """Return the channels of each position as its code vector."""
        return features.flatten(2).mT

    def to_features(self, vectors: Tensor) -> Tensor:
        """Return the code vectors as the channels of their positions."""
        return vectors.mT.unflatten(2, self.shape)


class ResidualVQLayout(Layout):
    """Layout of residual vector quantization (Zeghidour et al. 2021, arXiv 2107.03312).

    There are F = D channels. Each of the P positions has M codes, one for each level, and its
    vector is the sum of theirs: L = M * P. The first level gets the encoder's vectors; the
    quantizer passes the remainders on to later levels.

    Args:
        levels: M.
        code_width: D.
        shape: sides of the feature map, whose product is P.
        scan_order: order of the positions within a level. `raster` is row by row. `bayer` is Bayer
            order, in which a few codes cover the whole map; see `bayer_order`.
    """

    permutation: Tensor
    """Position of each code of a level, int64 [P]."""
    inverse_permutation: Tensor
    """Index within a level of each position, int64 [P]."""

    def __init__(
        self,
        levels: int,
        code_width: int,
        shape: tuple[int, ...],
        scan_order: Literal["raster", "bayer"],
    ) -> None:
        """Compute the permutation of the scan order."""
        super().__init__()
        self.features, self.shape, self.levels = code_width, shape, levels
        permutation = (
            bayer_order(shape) if scan_order == "bayer" else torch.arange(math.prod(shape))
        )
        self.register_buffer("permutation", permutation, persistent=False)
        self.register_buffer("inverse_permutation", permutation.argsort(), persistent=False)

    def to_vectors(self, features: Tensor) -> Tensor:
        """Return the features as vectors of the first level, and zeros for the other levels."""
        first = features.flatten(2).mT[:, self.permutation]  # [B, P, D]
        return torch.cat([first, *[torch.zeros_like(first)] * (self.levels - 1)], dim=1)

    def to_features(self, vectors: Tensor) -> Tensor:
        """Add up the vectors of all levels at each position."""
        total = vectors.unflatten(1, (self.levels, -1)).sum(1)[
            :, self.inverse_permutation
        ]  # [B, P, D]
        return total.mT.unflatten(2, self.shape)


def bayer_order(shape: tuple[int, ...]) -> Tensor:
    """Return the positions of a map in Bayer order, so that each is far from those before it.

    The order is that of the thresholds in ordered dithering (Bayer 1973), for any number of axes
    and any sides.

    Args:
        shape: sides of the map, whose product is P.

    Returns:
        int64 [P], positions in raster numbering.
    """
    axes = torch.meshgrid(*[torch.arange(side) for side in shape], indexing="ij")
    thresholds = torch.zeros(shape, dtype=torch.int64)
    for bit in range((max(shape) - 1).bit_length()):
        # Among 2 x 2 neighbours: a corner, the opposite corner, and then the other two.
        sides = [axis >> bit & 1 for axis in axes]
        corner = sum(sides) & 1
        for side in sides[:-1]:
            corner = 2 * corner + side
        thresholds = thresholds * 2 ** len(shape) + corner
    return thresholds.flatten().argsort(stable=True)


class FullyConnected(nn.Module):
    """A linear map plus, if `hidden` > 0, an MLP branch: float [..., inputs] -> [..., outputs].

    The output of the MLP branch starts at zero: the linear map learns first, and learns faster than
    the branch.

    Args:
        inputs: width of the input.
        hidden: width of the hidden layer of the MLP branch; 0: no branch.
        outputs: width of the output.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        """Build the linear map and the MLP branch."""
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.mlp: nn.Sequential | None = None
        if hidden:
            last = nn.Linear(hidden, outputs)
            nn.init.zeros_(last.weight)
            self.mlp = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the linear map and the MLP branch: [..., inputs] -> [..., outputs]."""
        return self.linear(x) if self.mlp is None else self.linear(x) + self.mlp(x)

    def zero_init(self) -> None:
        """Zero the last layers, so that the output is zero."""
        for last in [self.linear] if self.mlp is None else [self.linear, self.mlp[-1]]:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)


class ProjectionLayout(Layout):
    """Layout with a learned map from all values to L vectors of width D, and one back.

    Args:
        code_length: L.
        code_width: D.
        features: F.
        shape: sides of the feature map.
        hidden: width of the hidden layer in each map; 0: linear. The first few codes describe the
            whole image, which convolutions alone combine only step by step.
    """

    def __init__(
        self,
        code_length: int,
        code_width: int,
        features: int,
        shape: tuple[int, ...],
        hidden: int,
    ) -> None:
        """Build the two learned maps."""
        super().__init__()
        self.features, self.shape, self.code_length = features, shape, code_length
        flat = features * math.prod(shape)
        self.project = FullyConnected(flat, hidden, code_length * code_width)
        self.expand = FullyConnected(code_length * code_width, hidden, flat)

    def to_vectors(self, features: Tensor) -> Tensor:
        """Project all values of the features to L vectors."""
        return self.project(features.flatten(1)).unflatten(1, (self.code_length, -1))

    def to_features(self, vectors: Tensor) -> Tensor:
        """Project the L vectors back to all values of the features."""
        return self.expand(vectors.flatten(1)).unflatten(1, (self.features, *self.shape))

    def zero_init_vectors(self) -> None:
        """Zero the last layers of the map to code vectors."""
        self.project.zero_init()


class SegmentLayout(Layout):
    """Layout with a few global vectors and then, level by level, one vector for each segment.

    All segments share one learned map, as positions share a convolution. So there is more data to
    learn it from, and codes can follow events in time or say where things are. Global vectors come
    first, so that one code gives a complete sample.

    Args:
        num_global: G, number of global vectors; 0: the codes start with the first level.
        levels: M, vectors for each segment; L = G + S * M.
        segments: S, parts of equal length of a clip, or square blocks of an image in raster order;
            see `segment_grid`.
        code_width: D.
        features: F.
        shape: sides of the feature map.
        hidden: width of a hidden layer in each map; 0: linear.
        overlapping: whether neighbouring segments overlap; see `lapped_transform`.
        extra_features: values of each segment that a subclass adds to those of the map.
    """

    def __init__(
        self,
        num_global: int,
        levels: int,
        segments: int,
        code_width: int,
        features: int,
        shape: tuple[int, ...],
        hidden: int,
        *,
        overlapping: bool = False,
        extra_features: int = 0,
    ) -> None:
        """Build the learned maps of the whole sample and of a segment."""
        super().__init__()
        self.features, self.shape, self.overlapping = features, shape, overlapping
        self.num_global, self.levels, self.segments = num_global, levels, segments
        grid = segment_grid(segments, shape)
        assert grid is not None, "the configuration checks that segments are equal parts"
        self.grid = grid
        """Number of segments along each axis."""
        flat = features * math.prod(shape)
        part = flat // segments + extra_features
        self.project = FullyConnected(flat, hidden, num_global * code_width) if num_global else None
        self.expand = FullyConnected(num_global * code_width, hidden, flat) if num_global else None
        self.project_part = FullyConnected(part, hidden, levels * code_width)
        self.expand_part = FullyConnected(levels * code_width, hidden, part)

    def to_vectors(self, features: Tensor) -> Tensor:
        """Project features to global vectors, followed by the vectors of each level."""
        level_vectors = self.project_part(self.split_segments(features)).unflatten(
            2, (self.levels, -1)
        )  # [B, S, M, D]
        level_vectors = level_vectors.transpose(1, 2).flatten(1, 2)  # [B, M * S, D]
        if self.project is None:
            return level_vectors
        global_vectors = self.project(features.flatten(1)).unflatten(
            1, (self.num_global, -1)
        )  # [B, G, D]
        return torch.cat([global_vectors, level_vectors], dim=1)

    def split_segments(self, features: Tensor) -> Tensor:
        """Split features into the P values of each segment: [B, F, *shape] -> [B, S, P]."""
        features = self._overlap(features)
        axes = len(self.grid)
        for axis, count in enumerate(self.grid):
            features = features.unflatten(2 + 2 * axis, (count, -1))  # [B, F, rows, row, ...]
        outside, inside = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
        return features.permute(0, *outside, 1, *inside).flatten(1 + axes).flatten(1, axes)

    def join_segments(self, segments: Tensor) -> Tensor:
        """Join segments to features (inverse of `split_segments`): [B, S, P] -> [B, F, *shape]."""
        axes = len(self.grid)
        inside = [side // count for side, count in zip(self.shape, self.grid, strict=True)]
        features = segments.unflatten(2, (self.features, *inside)).unflatten(1, self.grid)
        pairs = [place for axis in range(axes) for place in (1 + axis, 2 + axes + axis)]
        features = features.permute(0, 1 + axes, *pairs)  # [B, F, rows, row, ...]
        for axis in range(axes):
            features = features.flatten(2 + axis, 3 + axis)
        return self._overlap(features, inverse=True)

    def _overlap(self, features: Tensor, *, inverse: bool = False) -> Tensor:
        """Apply the lapped transform along each axis, or its inverse."""
        for axis, count in enumerate(self.grid if self.overlapping else ()):
            features = lapped_transform(
                features.movedim(2 + axis, 2), count, inverse=inverse
            ).movedim(2, 2 + axis)
        return features

    def to_features(self, vectors: Tensor) -> Tensor:
        """Decode the vectors of segments, and add what the global vectors decode to."""
        global_vectors, level_vectors = vectors.split(
            [self.num_global, self.levels * self.segments], dim=1
        )
        features = self.join_segments(self._decode_segments(level_vectors))
        if self.expand is None:
            return features
        return features + self.expand(global_vectors.flatten(1)).unflatten(
            1, (self.features, *self.shape)
        )

    def zero_init_vectors(self) -> None:
        """Zero the last layers of the maps to code vectors."""
        self.project_part.zero_init()
        if self.project is not None:
            self.project.zero_init()

    def _decode_segments(self, local: Tensor) -> Tensor:
        """Decode the vectors of each segment to its values: [B, M * S, D] -> [B, S, P]."""
        parts = local.unflatten(1, (self.levels, self.segments)).transpose(1, 2)  # [B, S, M, D]
        return self.expand_part(parts.flatten(2))


def segment_grid(segments: int, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the number of segments along each axis, so that all are blocks of one side.

    Args:
        segments: number S of segments; 1 is the whole map, whatever its sides.
        shape: sides of the map.

    Returns:
        None if the map cannot be split into so many equal blocks.
    """
    if segments == 1:
        return (1,) * len(shape)
    block = round((math.prod(shape) / segments) ** (1 / len(shape)))
    if block == 0 or any(side % block for side in shape):
        return None
    grid = tuple(side // block for side in shape)
    return grid if math.prod(grid) == segments else None


def lapped_transform(x: Tensor, segments: int, *, inverse: bool = False) -> Tensor:
    """Rotate samples across the borders of segments, or rotate them back (Malvar 1992).

    Codes of segments that merely touch leave a click at each border. The lapped transform avoids it
    without additional samples. It rotates each sample after a border with its mirror image before
    it. The angle falls from 45 degrees at the border to 0 in the middle of a segment. So a segment,
    transformed back, reaches into half of both neighbours and fades out there. The rotation is
    orthogonal: errors have the same size before and after it.

    Args:
        x: float [B, C, T, ...], T divisible by `segments`.
        segments: number of segments along T.
        inverse: whether to apply the inverse transform.

    Returns:
        The same shape. The outer halves of the first and the last segment are unchanged.
    """
    size = x.shape[2] // segments
    half = size // 2
    if segments == 1 or half == 0:
        return x
    positions = (torch.arange(half, device=x.device, dtype=x.dtype) + 0.5) / half
    angle = (1 - positions) * (math.pi / 4) * (-1 if inverse else 1)  # from the border outwards
    angle = angle.view(-1, *[1] * (x.ndim - 3))
    parts = x.unflatten(2, (segments, size))
    before = parts[:, :, :-1, size - half :].flip(3)  # [B, C, borders, half, ...], mirrored
    after = parts[:, :, 1:, :half]
    rotated_before = angle.cos() * before + angle.sin() * after
    rotated_after = angle.cos() * after - angle.sin() * before
    starts = torch.cat([parts[:, :, :1, :half], rotated_after], dim=2)
    ends = torch.cat([rotated_before.flip(3), parts[:, :, -1:, size - half :]], dim=2)
    middles = parts[:, :, :, half : size - half]
    return torch.cat([starts, middles, ends], dim=3).flatten(2, 3)
