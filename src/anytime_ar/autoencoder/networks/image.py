"""Encoder and decoder networks between images [B, C, H, W] and feature maps [B, F, h, w].

The networks follow VQ-VAE: residual blocks at each resolution, strided convolution down, sub-pixel
convolution up. Folding `patch` x `patch` pixels into channels first spares the network the costly
full resolution. The memory format is channels-last, which halves the time on CPUs.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytime_ar.autoencoder.networks.config import NetworkConfig


class ImageResidualBlock(nn.Module):
    """A 3x3 and a 1x1 convolution, added to the input: [B, F, h, w] -> [B, F, h, w].

    There is no normalisation. The networks are shallow and train as well without it; on a CPU it
    would take as long as the convolutions.

    Args:
        width: F.
    """

    def __init__(self, width: int) -> None:
        """Build the two convolutions; the block starts as the identity."""
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.conv2.weight)  # so that the block starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of the two convolutions to the input."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


def _blocks(count: int, width: int) -> list[nn.Module]:
    """Return `count` residual blocks of a width."""
    return [ImageResidualBlock(width) for _ in range(count)]


class ImageEncoder(nn.Module):
    """Network from images [B, C, H, W] to features [B, F, H / stride, W / stride].

    Args:
        config: sizes of the network.
        channels: C.
        features: F.
    """

    def __init__(self, config: NetworkConfig, channels: int, features: int) -> None:
        """Build the layers, from the finest to the coarsest resolution."""
        super().__init__()
        widths = config.widths
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch),
            nn.Conv2d(channels * config.patch**2, widths[0], 3, padding=1),
            *_blocks(config.blocks, widths[0]),
        ]
        for finer, coarser in pairwise(widths):
            layers.append(nn.Conv2d(finer, coarser, 4, stride=2, padding=1))
            layers += _blocks(config.blocks, coarser)
        layers += [nn.ReLU(), nn.Conv2d(widths[-1], features, 1)]
        self.layers = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Encode images [B, C, H, W] to features [B, F, H / stride, W / stride]."""
        return self.layers(x.contiguous(memory_format=torch.channels_last))


class ImageDecoder(nn.Module):
    """Network from features [B, F, h, w] to images [B, C, h * stride, w * stride].

    Args:
        config: sizes of the network.
        channels: C.
        features: F.
    """

    def __init__(self, config: NetworkConfig, channels: int, features: int) -> None:
        """Build the layers, from the coarsest to the finest resolution."""
        super().__init__()
        self.config = config
        widths = config.widths[::-1]
        layers: list[nn.Module] = [
            nn.Conv2d(features, widths[0], 3, padding=1),
            *_blocks(config.blocks, widths[0]),
        ]
        for coarser, finer in pairwise(widths):
            layers += [nn.Conv2d(coarser, finer * 4, 1), nn.PixelShuffle(2)]
            layers += _blocks(config.blocks, finer)
        layers += [
            nn.ReLU(),
            nn.Conv2d(widths[-1], channels * config.patch**2, 3, padding=1),
            nn.PixelShuffle(config.patch),
        ]
        self.layers = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Decode features [B, F, h, w] to images [B, C, h * stride, w * stride]."""
        return self.layers(x.contiguous(memory_format=torch.channels_last))
