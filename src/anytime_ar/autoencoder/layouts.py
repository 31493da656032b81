"""Code layouts: how a feature map becomes L code vectors of width D, and back.

Maps are [B, F, *shape]: two-dimensional for images, one-dimensional for sounds.

`ChannelLayout` is the paper's (section 3.2): each latent channel, flattened, is one code.
`SpatialLayout` is the ordinary VQ-VAE: each position is one code, in raster order; in
`ResidualVQLayout` it has several, whose sum it is. `ProjectionLayout` projects the whole map to L
vectors, so the code width does not depend on the map.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from anytime_ar.autoencoder.lapped_transform import lapped_transform
from anytime_ar.autoencoder.noise_substitution import NoiseSubstitution


class Layout(nn.Module):
    """Maps features [B, F, *shape] to code vectors [B, L, D] and back; `features` is F."""

    features: int

    def to_vectors(self, features: Tensor) -> Tensor:
        """float [B, F, *shape] -> [B, L, D]."""
        raise NotImplementedError

    def to_features(self, vectors: Tensor) -> Tensor:
        """float [B, L, D] -> [B, F, *shape]."""
        raise NotImplementedError


class ChannelLayout(Layout):
    """F = L channels; a code is all D values of a channel."""

    def __init__(self, code_length: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.features, self.shape = code_length, shape

    def to_vectors(self, features: Tensor) -> Tensor:
        return features.flatten(2)

    def to_features(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(2, self.shape)


class SpatialLayout(Layout):
    """F = D channels; a code is one of the L positions, row by row."""

    def __init__(self, code_width: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.features, self.shape = code_width, shape

    def to_vectors(self, features: Tensor) -> Tensor:
        return features.flatten(2).mT

    def to_features(self, vectors: Tensor) -> Tensor:
        return vectors.mT.unflatten(2, self.shape)


class ResidualVQLayout(Layout):
    """F = D channels; each of the P positions has M codes, whose sum is its vector, level by level:
    residual quantization (Zeghidour et al. 2021, arXiv 2107.03312). L = M * P.

    The first level gets the vectors, and the quantizer hands on to the others what is missing.

    Args:
        levels: M.
        scan_order: of the positions within a level: row by row, or `bayer_order`, so that a few codes tell a
            little of everything rather than all of a corner.
    """

    permutation: Tensor
    inverse_permutation: Tensor

    def __init__(
        self,
        levels: int,
        code_width: int,
        shape: tuple[int, ...],
        scan_order: Literal["raster", "bayer"],
    ) -> None:
        super().__init__()
        self.features, self.shape, self.levels = code_width, shape, levels
        places = bayer_order(shape) if scan_order == "bayer" else torch.arange(math.prod(shape))
        self.register_buffer("permutation", places, persistent=False)  # of the codes of a level
        self.register_buffer(
            "inverse_permutation", places.argsort(), persistent=False
        )  # of the positions

    def to_vectors(self, features: Tensor) -> Tensor:
        first = features.flatten(2).mT[:, self.permutation]  # [B, P, D]
        return torch.cat([first, *[torch.zeros_like(first)] * (self.levels - 1)], dim=1)

    def to_features(self, vectors: Tensor) -> Tensor:
        total = vectors.unflatten(1, (self.levels, -1)).sum(1)[
            :, self.inverse_permutation
        ]  # [B, P, D]
        return total.mT.unflatten(2, self.shape)


def bayer_order(shape: tuple[int, ...]) -> Tensor:
    """Positions of a map, int64 [P], numbered row by row, each far from those before it: the order
    of thresholds in ordered dithering (Bayer 1973), for any number of axes and any sides."""
    axes = torch.meshgrid(*[torch.arange(side) for side in shape], indexing="ij")
    turns = torch.zeros(shape, dtype=torch.int64)
    for bit in range((max(shape) - 1).bit_length()):
        # Of 2 x 2 neighbours: one, the one across, and then those between.
        sides = [axis >> bit & 1 for axis in axes]
        corner = sum(sides) & 1
        for side in sides[:-1]:
            corner = 2 * corner + side
        turns = turns * 2 ** len(shape) + corner
    return turns.flatten().argsort(stable=True)


class FullyConnected(nn.Module):
    """A linear map, plus a hidden layer of its own where `hidden` > 0: [B, inputs] -> [B, outputs].

    The hidden layer starts at zero: the linear map learns first, and faster than through it.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.mlp: nn.Sequential | None = None
        if hidden:
            last = nn.Linear(hidden, outputs)
            nn.init.zeros_(last.weight)
            self.mlp = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if self.mlp is None else self.linear(x) + self.mlp(x)


class ProjectionLayout(Layout):
    """A learned map from all values to L vectors of width D, and one back.

    Args:
        hidden: width of a hidden layer in each; 0: linear. The first few codes describe the whole
            picture, which convolutions alone put together only step by step.
    """

    def __init__(
        self,
        code_length: int,
        code_width: int,
        features: int,
        shape: tuple[int, ...],
        hidden: int,
    ) -> None:
        super().__init__()
        self.features, self.shape, self.code_length = features, shape, code_length
        flat = features * math.prod(shape)
        self.project = FullyConnected(flat, hidden, code_length * code_width)
        self.expand = FullyConnected(code_length * code_width, hidden, flat)

    def to_vectors(self, features: Tensor) -> Tensor:
        return self.project(features.flatten(1)).unflatten(1, (self.code_length, -1))

    def to_features(self, vectors: Tensor) -> Tensor:
        return self.expand(vectors.flatten(1)).unflatten(1, (self.features, *self.shape))


class SegmentLayout(Layout):
    """A few vectors for the whole map, and then, level by level, one for each of its segments.

    What describes one segment describes any other: their map is shared, like that of a convolution,
    so that there is more to learn it from, and codes can follow what happens in time, or tell what
    lies where. The whole comes first, so that one code gives a complete sample.

    Args:
        num_global: G, vectors for the whole; 0: the first level is the start.
        levels: M, vectors for each segment; L = G + S * M.
        segments: S, parts of equal length of a sound, or square blocks of a picture, row by row: S
            is a square number.
        hidden: width of a hidden layer in each map; 0: linear.
        overlapping: let segments reach into their neighbours; see `laps`.
        extra_features: values of each segment that a subclass puts beside those of the map.
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
        super().__init__()
        self.features, self.shape, self.overlapping = features, shape, overlapping
        self.num_global, self.levels, self.segments = num_global, levels, segments
        self.grid = (round(segments ** (1 / len(shape))),) * len(shape)
        """Segments along each axis."""
        flat = features * math.prod(shape)
        part = flat // segments + extra_features
        self.project = FullyConnected(flat, hidden, num_global * code_width) if num_global else None
        self.expand = FullyConnected(num_global * code_width, hidden, flat) if num_global else None
        self.project_part = FullyConnected(part, hidden, levels * code_width)
        self.expand_part = FullyConnected(levels * code_width, hidden, part)

    def to_vectors(self, features: Tensor) -> Tensor:
        local = self.project_part(self.split_segments(features)).unflatten(2, (self.levels, -1))
        local = local.transpose(1, 2).flatten(1, 2)  # [B, M * S, D]
        if self.project is None:
            return local
        whole = self.project(features.flatten(1)).unflatten(1, (self.num_global, -1))  # [B, G, D]
        return torch.cat([whole, local], dim=1)

    def split_segments(self, features: Tensor) -> Tensor:
        """What is coded of each segment of features: [B, F, *shape] -> [B, S, P]."""
        features = self._overlap(features)
        axes = len(self.grid)
        for axis, count in enumerate(self.grid):
            features = features.unflatten(2 + 2 * axis, (count, -1))  # [B, F, rows, row, ...]
        places, inside = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
        return features.permute(0, *places, 1, *inside).flatten(1 + axes).flatten(1, axes)

    def join_segments(self, segments: Tensor) -> Tensor:
        """Features of their segments, the inverse of `segments`: [B, S, P] -> [B, F, *shape]."""
        axes = len(self.grid)
        inside = [side // count for side, count in zip(self.shape, self.grid, strict=True)]
        features = segments.unflatten(2, (self.features, *inside)).unflatten(1, self.grid)
        pairs = [place for axis in range(axes) for place in (1 + axis, 2 + axes + axis)]
        features = features.permute(0, 1 + axes, *pairs)  # [B, F, rows, row, ...]
        for axis in range(axes):
            features = features.flatten(2 + axis, 3 + axis)
        return self._overlap(features, inverse=True)

    def _overlap(self, features: Tensor, *, inverse: bool = False) -> Tensor:
        for axis, count in enumerate(self.grid if self.overlapping else ()):
            features = lapped_transform(
                features.movedim(2 + axis, 2), count, inverse=inverse
            ).movedim(2, 2 + axis)
        return features

    def to_features(self, vectors: Tensor) -> Tensor:
        whole, local = vectors.split([self.num_global, self.levels * self.segments], dim=1)
        features = self.join_segments(self._decode_segments(local))
        if self.expand is None:
            return features
        return features + self.expand(whole.flatten(1)).unflatten(1, (self.features, *self.shape))

    def _decode_segments(self, local: Tensor) -> Tensor:
        """[B, M * S, D] -> [B, S, P]."""
        parts = local.unflatten(1, (self.levels, self.segments)).transpose(1, 2)  # [B, S, M, D]
        return self.expand_part(parts.flatten(2))


class NoiseSubstitutionSkip(SegmentLayout):
    """Linear maps between the segments of a sound [B, 1, T] and vectors; beside its samples, a
    segment has how loud its bands are, for a decoder that fills them with noise; see `noise_substitution`.

    Args:
        bands: to tell the loudness of.
    """

    def __init__(
        self, levels: int, segments: int, code_width: int, length: int, bands: int
    ) -> None:
        super().__init__(
            0,
            levels,
            segments,
            code_width,
            1,
            (length,),
            hidden=0,
            overlapping=True,
            extra_features=bands,
        )
        self.segment_length = length // segments
        self.noise_substitution = NoiseSubstitution(segments, self.segment_length, bands)

    def split_segments(self, features: Tensor) -> Tensor:
        samples = super().split_segments(features)
        return torch.cat([samples, self.noise_substitution.loudness(samples)], dim=2)

    def join_segments(self, segments: Tensor) -> Tensor:
        return super().join_segments(segments[..., : self.segment_length])

    def loudness(self, x: Tensor) -> Tensor:
        """Of each band of the segments of a sound: float [B, 1, T] -> [B, S, bands]."""
        return self.noise_substitution.loudness(super().split_segments(x))

    def decoded_loudness(self, vectors: Tensor) -> Tensor:
        """What vectors say of it: float [B, M * S, D] -> [B, S, bands]."""
        return self._decode_segments(vectors)[..., self.segment_length :]

    def fill_noise(self, x: Tensor, loudness: Tensor) -> Tensor:
        """A sound [B, 1, T] with noise where it lacks loudness."""
        return super().join_segments(
            self.noise_substitution.fill_noise(super().split_segments(x), loudness)
        )
