"""Encoder and decoder networks between samples and feature maps, and their configuration.

The networks for images follow VQ-VAE: residual blocks at each resolution, strided convolution down,
sub-pixel convolution up. Those for audio have one dimension, after SEANet (Tagliasacchi et al.
2020), and dilated residual blocks. Folding `patch` x `patch` pixels, or `patch` samples, into
channels first spares the network the costly full resolution. Images are channels-last in memory,
which halves the time on CPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from anytime_ar.config import Config
from anytime_ar.errors import InputError


class NetworkConfig(Config):
    """Convolutional encoder and decoder: two-dimensional for images, one-dimensional for clips."""

    patch: int = Field(1, ge=1)
    """Pixels per side, or audio samples, folded into channels before the first convolution."""
    widths: tuple[PositiveInt, ...] = Field((64, 128), min_length=1)
    """Channels at each resolution, from the finest to the coarsest."""
    downsample: int = Field(2, ge=2)
    """Factor between the sides of neighbouring resolutions; 2 for images."""
    blocks: int = Field(2, ge=0)
    """Number of residual blocks at each resolution."""
    hidden: int = Field(512, ge=0)
    """Width of the hidden layer between feature maps and code vectors, for the layouts with
    learned projections (`projection`, `segment`, `lapped_segment`); 0: a linear map."""

    @property
    def stride(self) -> int:
        """Return the pixels per side, or audio samples, per position of the coarsest map."""
        return self.patch * self.downsample ** (len(self.widths) - 1)

    def map_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sides of the coarsest feature map of a sample.

        Args:
            sample_shape: (C, H, W) of images, (C, T) of audio.

        Raises:
            InputError: the network does not fit the shape.
        """
        images = len(sample_shape) == 3
        if images and self.downsample != 2:
            raise InputError(
                f"autoencoder.network.downsample is {self.downsample}, and images have 2; drop it"
            )
        stride, sides = self.stride, sample_shape[1:]
        if any(side % stride for side in sides):
            below = _by_x(max(1, side // stride) * stride for side in sides)
            above = _by_x(-(-side // stride) * stride for side in sides)
            near = f"{below} is" if below == above else f"{below} and {above} are"
            what, setting = f"{_by_x(sides)} images", "data.size"
            if not images:
                what = f"clips of {_by_x(sides)} samples"
                setting = "data.audio.length_multiple, the length of the series,"
            raise InputError(
                f"{what} are not divisible by the network's stride {stride}, but {near}; change "
                f"{setting} or autoencoder.network"
            )
        return tuple(side // stride for side in sides)


def _by_x(sides: Iterable[int]) -> str:
    """Return sides as text, such as 32x64."""
    return "x".join(map(str, sides))


IMAGE_PRESETS: dict[int, NetworkConfig] = {
    8: NetworkConfig(patch=1, widths=(32, 64), blocks=1, hidden=256),
    28: NetworkConfig(patch=2, widths=(32, 64), blocks=1),
    32: NetworkConfig(patch=2, widths=(64, 96), blocks=1, hidden=1024),
    64: NetworkConfig(patch=4, widths=(64, 96), blocks=2, hidden=1024),
}
"""Network presets by the shorter side of an image, in pixels."""
_USUAL_MAP_SIDE = 8
"""Side of the coarsest feature map to which examples of networks come as near as they can."""
AUDIO_PRESET = NetworkConfig(patch=8, widths=(64, 128, 192), downsample=4, blocks=3, hidden=1024)
"""The network preset for clips of at least `_LONG_CLIP` samples."""
SHORT_CLIP_PRESET = NetworkConfig(patch=2, widths=(64, 128), blocks=3, hidden=512)
"""The network preset for shorter clips, such as most series."""
_LONG_CLIP = 1024
"""Length in samples from which on clips have the preset for audio."""


def network_preset(sample_shape: tuple[int, ...]) -> NetworkConfig:
    """Return the preset for clips of a length, or for images by their shorter side.

    Args:
        sample_shape: (C, H, W) of images, (C, T) of sounds and series.

    Raises:
        InputError: there is no preset for images of this size.
    """
    if len(sample_shape) == 2:
        return AUDIO_PRESET if sample_shape[1] >= _LONG_CLIP else SHORT_CLIP_PRESET
    sides = sample_shape[1:]
    preset = IMAGE_PRESETS.get(min(sides))
    if preset is None or any(side % preset.stride for side in sides):
        raise InputError(
            f"no network preset for {_by_x(sides)} images (there are {sorted(IMAGE_PRESETS)}); "
            f"set data.size to one of these, or --autoencoder.network '{_example_setting(sides)}'"
        )
    return preset


def _example_setting(sides: tuple[int, ...]) -> str:
    """Return a network for images of these sides, as an option's value or in YAML."""
    common = math.gcd(*sides)
    widths, coarse = ([32, 64], common // 2) if common % 2 == 0 else ([64], common)
    divisors = (patch for patch in range(1, coarse + 1) if coarse % patch == 0)
    smallest = min(sides) * coarse // common  # side of the map with a patch of 1
    patch = min(divisors, key=lambda patch: abs(smallest // patch - _USUAL_MAP_SIDE))
    return f"{{patch: {patch}, widths: {widths}, blocks: 1}}"


class _Network(nn.Module):
    """Layers in sequence.

    Args:
        layers: the layers.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        """Join the layers in sequence."""
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers in their order."""
        return self.layers(x)


class _ImageNetwork(_Network):
    """Layers in sequence, in the channels-last memory format.

    Args:
        layers: the layers.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        """Join the layers and convert their weights."""
        super().__init__(layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers in their order."""
        return self.layers(x.contiguous(memory_format=torch.channels_last))


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


def _image_blocks(count: int, width: int) -> list[nn.Module]:
    """Return `count` residual blocks of a width."""
    return [ImageResidualBlock(width) for _ in range(count)]


class ImageEncoder(_ImageNetwork):
    """Network from images [B, C, H, W] to features [B, F, H / stride, W / stride].

    Args:
        config: sizes of the network.
        channels: C.
        features: F.
    """

    def __init__(self, config: NetworkConfig, channels: int, features: int) -> None:
        """Build the layers, from the finest to the coarsest resolution."""
        widths = config.widths
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch),
            nn.Conv2d(channels * config.patch**2, widths[0], 3, padding=1),
            *_image_blocks(config.blocks, widths[0]),
        ]
        for finer, coarser in pairwise(widths):
            layers.append(nn.Conv2d(finer, coarser, 4, stride=2, padding=1))
            layers += _image_blocks(config.blocks, coarser)
        super().__init__([*layers, nn.ReLU(), nn.Conv2d(widths[-1], features, 1)])


class ImageDecoder(_ImageNetwork):
    """Network from features [B, F, h, w] to images [B, C, h * stride, w * stride].

    The arguments are those of `ImageEncoder`.
    """

    def __init__(self, config: NetworkConfig, channels: int, features: int) -> None:
        """Build the layers, from the coarsest to the finest resolution."""
        widths = config.widths[::-1]
        layers: list[nn.Module] = [
            nn.Conv2d(features, widths[0], 3, padding=1),
            *_image_blocks(config.blocks, widths[0]),
        ]
        for coarser, finer in pairwise(widths):
            layers += [nn.Conv2d(coarser, finer * 4, 1), nn.PixelShuffle(2)]
            layers += _image_blocks(config.blocks, finer)
        last = nn.Conv2d(widths[-1], channels * config.patch**2, 3, padding=1)
        super().__init__([*layers, nn.ReLU(), last, nn.PixelShuffle(config.patch)])
        self.config = config


_DILATIONS = (1, 3, 9)
"""Dilations of consecutive residual blocks, repeated."""
_OUTER_KERNEL_SIZE = 7
"""Kernel size of the first and the last convolution for audio."""


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


def _audio_blocks(count: int, width: int) -> list[nn.Module]:
    """Return `count` residual blocks with the dilations in turn."""
    return [AudioResidualBlock(width, _DILATIONS[i % len(_DILATIONS)]) for i in range(count)]


class AudioEncoder(_Network):
    """Network from audio [B, C, T] to features [B, F, T / stride].

    The arguments are those of `ImageEncoder`.
    """

    def __init__(self, config: NetworkConfig, channels: int, features: int) -> None:
        """Build the layers, from the finest to the coarsest resolution."""
        widths, shrink = config.widths, config.downsample
        layers: list[nn.Module] = [
            PixelUnshuffle1d(config.patch),
            _outer_convolution(channels * config.patch, widths[0]),
            *_audio_blocks(config.blocks, widths[0]),
        ]
        for finer, coarser in pairwise(widths):
            shrinking = nn.Conv1d(finer * shrink, coarser, 3, padding=1)
            layers += [nn.ELU(), PixelUnshuffle1d(shrink), shrinking]
            layers += _audio_blocks(config.blocks, coarser)
        super().__init__([*layers, nn.ELU(), nn.Conv1d(widths[-1], features, 1)])


class AudioDecoder(_Network):
    """Network from features [B, F, t] to audio [B, C, t * stride].

    The arguments are those of `ImageEncoder`.
    """

    def __init__(self, config: NetworkConfig, channels: int, features: int) -> None:
        """Build the layers, from the coarsest to the finest resolution."""
        widths, shrink = config.widths[::-1], config.downsample
        layers: list[nn.Module] = [
            nn.Conv1d(features, widths[0], 3, padding=1),
            *_audio_blocks(config.blocks, widths[0]),
        ]
        for coarser, finer in pairwise(widths):
            growing = nn.Conv1d(coarser, finer * shrink, 3, padding=1)
            layers += [nn.ELU(), growing, PixelShuffle1d(shrink)]
            layers += _audio_blocks(config.blocks, finer)
        last = _outer_convolution(widths[-1], channels * config.patch)
        super().__init__([*layers, nn.ELU(), last, PixelShuffle1d(config.patch)])


def _outer_convolution(inputs: int, outputs: int) -> nn.Conv1d:
    """Return the first or the last convolution for audio."""
    return nn.Conv1d(inputs, outputs, _OUTER_KERNEL_SIZE, padding=_OUTER_KERNEL_SIZE // 2)


NETWORKS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {
    1: (AudioEncoder, AudioDecoder),
    2: (ImageEncoder, ImageDecoder),
}
"""Encoder and decoder classes by the number of dimensions of a sample, channels not counted."""
