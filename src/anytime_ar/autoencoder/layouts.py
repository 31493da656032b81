"""Code layouts: how a feature map becomes L code vectors of width D, and back.

`ChannelLayout` is the paper's (section 3.2): each latent channel, flattened, is one code.
`SpatialLayout` is the ordinary VQ-VAE: each position is one code, in raster order. `VectorLayout`
projects the whole map to L vectors, so the code width does not depend on the map.
"""

from __future__ import annotations

from torch import Tensor, nn


class Layout(nn.Module):
    """Maps features [B, F, h, w] to code vectors [B, L, D] and back; `features` is F."""

    features: int

    def to_vectors(self, features: Tensor) -> Tensor:
        """float [B, F, h, w] -> [B, L, D]."""
        raise NotImplementedError

    def to_features(self, vectors: Tensor) -> Tensor:
        """float [B, L, D] -> [B, F, h, w]."""
        raise NotImplementedError


class ChannelLayout(Layout):
    """F = L channels; a code is a channel's h * w = D values."""

    def __init__(self, code_length: int, side: int) -> None:
        super().__init__()
        self.features, self.side = code_length, side

    def to_vectors(self, features: Tensor) -> Tensor:
        return features.flatten(2)

    def to_features(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(2, (self.side, self.side))


class SpatialLayout(Layout):
    """F = D channels; a code is one of the h * w = L positions, row by row."""

    def __init__(self, code_width: int, side: int) -> None:
        super().__init__()
        self.features, self.side = code_width, side

    def to_vectors(self, features: Tensor) -> Tensor:
        return features.flatten(2).mT

    def to_features(self, vectors: Tensor) -> Tensor:
        return vectors.mT.unflatten(2, (self.side, self.side))


class VectorLayout(Layout):
    """A linear map from all F * h * w values to L vectors of width D, and one back."""

    def __init__(self, code_length: int, code_width: int, features: int, side: int) -> None:
        super().__init__()
        self.features, self.side, self.code_length = features, side, code_length
        flat = features * side**2
        self.project = nn.Linear(flat, code_length * code_width)
        self.expand = nn.Linear(code_length * code_width, flat)

    def to_vectors(self, features: Tensor) -> Tensor:
        return self.project(features.flatten(1)).unflatten(1, (self.code_length, -1))

    def to_features(self, vectors: Tensor) -> Tensor:
        return self.expand(vectors.flatten(1)).unflatten(1, (self.features, self.side, self.side))
