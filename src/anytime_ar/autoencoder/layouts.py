"""Code layouts: how a feature map becomes L code vectors of width D, and back.

Maps are [B, F, *shape]: two-dimensional for images, one-dimensional for sounds.

`ChannelLayout` is the paper's (section 3.2): each latent channel, flattened, is one code.
`SpatialLayout` is the ordinary VQ-VAE: each position is one code, in raster order. `VectorLayout`
projects the whole map to L vectors, so the code width does not depend on the map.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


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


class FullyConnected(nn.Module):
    """A linear map, plus a hidden layer of its own where `hidden` > 0: [B, inputs] -> [B, outputs].

    The hidden layer starts at zero: the linear map learns first, and faster than through it.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.bend: nn.Sequential | None = None
        if hidden:
            last = nn.Linear(hidden, outputs)
            nn.init.zeros_(last.weight)
            self.bend = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if self.bend is None else self.linear(x) + self.bend(x)


class VectorLayout(Layout):
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
