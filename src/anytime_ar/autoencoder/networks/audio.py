"""Encoder and decoder networks between audio [B, C, T] and feature maps [B, F, t].

The architecture is that of `networks.image` in one dimension, after SEANet (Tagliasacchi et al.
2020): dilated residual blocks at each resolution, strided convolution down, sub-sample convolution
up. Folding `patch` samples into channels first spares the network the costly full rate.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from anytime_ar.autoencoder.networks.config import NetworkConfig

_DILATIONS = (1, 3, 9)
"""Dilations of consecutive residual blocks, repeated."""
_OUTER_KERNEL_SIZE = 7
"""Kernel size of the first and the last convolution."""


class PixelUnshuffle1d(nn.Module):
    """Conversion of neighbouring samples to channels: [B, C, t * factor] -> [B, C * factor, t].

    Args:
        factor: number of neighbours that become channels.
    """

    def __init__(self, factor: int) -> None:
        """Set the factor of the downsampling."""
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Move neighbouring samples into channels."""
        return x.unflatten(2, (-1, self.factor)).transpose(2, 3).flatten(1, 2)


class PixelShuffle1d(nn.Module):
    """Inverse of `PixelUnshuffle1d`: [B, C * factor, t] -> [B, C, t * factor].

    Args:
        factor: number of channels that become neighbours.
    """

    def __init__(self, factor: int) -> None:
        """Set the factor of the upsampling."""
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Move channels to neighbouring samples."""
        return x.unflatten(1, (-1, self.factor)).transpose(2, 3).flatten(2)


class AudioResidualBlock(nn.Module):
    """A dilated and a pointwise convolution, added to the input: [B, F, t] -> [B, F, t].

    Args:
        width: F.
        dilation: distance between the samples that the first convolution reads.
    """

    def __init__(self, width: int, dilation: int) -> None:
        """Build the two convolutions; the block starts as the identity."""
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, 1)
        nn.init.zeros_(self.conv2.weight)  # so that the block starts as the identity
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of the two convolutions to the input."""
        return x + self.conv2(F.elu(self.conv1(F.elu(x))))


def _blocks(count: int, width: int) -> list[nn.Module]:
    """Return `count` residual blocks with the dilations in turn."""
    return [AudioResidualBlock(width, _DILATIONS[i % len(_DILATIONS)]) for i in range(count)]


class AudioEncoder(nn.Module):
    """Network from audio [B, C, T] to features [B, F, T / stride].

    Args:
        config: sizes of the network.
        channels: C.
        features: F.
    """

    def __init__(self, config: NetworkConfig, channels: int, features: int) -> None:
        """Build the layers, from the finest to the coarsest resolution."""
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
        """Encode audio [B, C, T] to features [B, F, T / stride]."""
        return self.layers(x)


class AudioDecoder(nn.Module):
    """Network from features [B, F, t] to audio [B, C, t * stride].

    Args:
        config: sizes of the network.
        channels: C.
        features: F.
    """

    def __init__(self, config: NetworkConfig, channels: int, features: int) -> None:
        """Build the layers, from the coarsest to the finest resolution."""
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
        """Decode features [B, F, t] to audio [B, C, t * stride]."""
        return self.layers(x)
