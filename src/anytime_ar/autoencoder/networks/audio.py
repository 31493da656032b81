"""Encoder and decoder networks between sounds [B, 1, T] and feature maps [B, F, t].

One-dimensional counterparts of `networks`, after SEANet (Tagliasacchi et al. 2020): dilated
residual blocks at each resolution, strided convolution down, sub-sample convolution up. Folding
`patch` samples into channels first keeps the costly full rate out of the network.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from anytime_ar.autoencoder.config import NetworkConfig

_DILATIONS = (1, 3, 9)
_OUTER_KERNEL_SIZE = 7
"""Kernel of the first and the last convolution."""


class PixelUnshuffle1d(nn.Module):
    """Puts neighbours in time into channels: [B, C, t * factor] -> [B, C * factor, t]."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.factor)).transpose(2, 3).flatten(1, 2)


class PixelShuffle1d(nn.Module):
    """The inverse of `PixelUnshuffle1d`: [B, C * factor, t] -> [B, C, t * factor]."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.factor)).transpose(2, 3).flatten(2)


class AudioResidualBlock(nn.Module):
    """A dilated and a pointwise convolution, added to the input: [B, F, t] -> the same."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, 1)
        nn.init.zeros_(self.conv2.weight)  # a block starts as the identity
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.elu(self.conv1(F.elu(x))))


def _blocks(count: int, width: int) -> list[nn.Module]:
    return [AudioResidualBlock(width, _DILATIONS[i % len(_DILATIONS)]) for i in range(count)]


class AudioEncoder(nn.Module):
    """Sounds [B, C, T] -> features [B, F, T / stride]."""

    def __init__(self, config: NetworkConfig, channels: int, features: int) -> None:
        super().__init__()
        widths, shrink = config.widths, config.downsample
        layers: list[nn.Module] = [
            PixelUnshuffle1d(config.patch),
            nn.Conv1d(
                channels * config.patch,
                widths[0],
                _OUTER_KERNEL_SIZE,
                padding=_OUTER_KERNEL_SIZE // 2,
            ),
            *_blocks(config.blocks, widths[0]),
        ]
        for finer, coarser in pairwise(widths):
            layers += [
                nn.ELU(),
                PixelUnshuffle1d(shrink),
                nn.Conv1d(finer * shrink, coarser, 3, padding=1),
            ]
            layers += _blocks(config.blocks, coarser)
        layers += [nn.ELU(), nn.Conv1d(widths[-1], features, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class AudioDecoder(nn.Module):
    """Features [B, F, t] -> sounds [B, C, t * stride]."""

    def __init__(self, config: NetworkConfig, channels: int, features: int) -> None:
        super().__init__()
        widths, shrink = config.widths[::-1], config.downsample
        layers: list[nn.Module] = [
            nn.Conv1d(features, widths[0], 3, padding=1),
            *_blocks(config.blocks, widths[0]),
        ]
        for coarser, finer in pairwise(widths):
            layers += [
                nn.ELU(),
                nn.Conv1d(coarser, finer * shrink, 3, padding=1),
                PixelShuffle1d(shrink),
                *_blocks(config.blocks, finer),
            ]
        layers += [
            nn.ELU(),
            nn.Conv1d(
                widths[-1],
                channels * config.patch,
                _OUTER_KERNEL_SIZE,
                padding=_OUTER_KERNEL_SIZE // 2,
            ),
            PixelShuffle1d(config.patch),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
