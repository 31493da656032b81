"""Configuration of the encoder and decoder networks, and presets for images and audio."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from anytime_ar.config import Config
from anytime_ar.errors import InputError


class NetworkConfig(Config):
    """Convolutional encoder and decoder: two-dimensional for images, one-dimensional for audio."""

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
        if sample_shape[1] % self.stride:
            size = "x".join(map(str, sample_shape[1:]))
            what, setting = f"{size} images", "data.size"
            if not images:
                what, setting = f"sounds of {size} samples", "data.audio.seconds"
            raise InputError(
                f"{what} are not divisible by the network's stride {self.stride}; change "
                f"{setting} or autoencoder.network"
            )
        return tuple(side // self.stride for side in sample_shape[1:])


IMAGE_PRESETS: dict[int, NetworkConfig] = {
    8: NetworkConfig(patch=1, widths=(32, 64), blocks=1, hidden=256),
    28: NetworkConfig(patch=2, widths=(32, 64), blocks=1),
    32: NetworkConfig(patch=2, widths=(64, 96), blocks=1, hidden=1024),
    64: NetworkConfig(patch=4, widths=(64, 96), blocks=2, hidden=1024),
}
"""Network presets by image side, in pixels."""
_USUAL_MAP_SIDE = 8
"""Side of the coarsest feature map to which examples of networks come as near as they can."""
AUDIO_PRESET = NetworkConfig(patch=8, widths=(64, 128, 192), downsample=4, blocks=3, hidden=1024)
"""The network preset for audio."""


def network_preset(sample_shape: tuple[int, ...]) -> NetworkConfig:
    """Return the preset for audio, or for images of a side.

    Args:
        sample_shape: (C, H, W) of images, (C, T) of audio.

    Raises:
        InputError: there is no preset for images of this side.
    """
    if len(sample_shape) == 2:
        return AUDIO_PRESET
    _, height, width = sample_shape
    if height not in IMAGE_PRESETS:
        raise InputError(
            f"no network preset for {height}x{width} images (there are {sorted(IMAGE_PRESETS)}); "
            f"set data.size to one of these, or --autoencoder.network '{_example_setting(height)}'"
        )
    return IMAGE_PRESETS[height]


def _example_setting(side: int) -> str:
    """Return a network for images of a side, as an option's value or in YAML."""
    widths, coarse = ([32, 64], side // 2) if side % 2 == 0 else ([64], side)
    divisors = (patch for patch in range(1, coarse + 1) if coarse % patch == 0)
    patch = min(divisors, key=lambda patch: abs(coarse // patch - _USUAL_MAP_SIDE))
    return f"{{patch: {patch}, widths: {widths}, blocks: 1}}"
