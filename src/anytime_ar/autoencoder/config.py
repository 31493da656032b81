"""Configuration of an ordered autoencoder, and network presets for images and audio."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from anytime_ar.autoencoder.quantizers import QuantizerConfig
from anytime_ar.config import Config
from anytime_ar.errors import InputError


class NetworkConfig(Config):
    """The encoder and decoder networks: two-dimensional for images, one-dimensional for audio."""

    kind: Literal["conv", "linear"] = "conv"
    """Convolutional networks, or `linear`: one affine map in each direction. The ordered codes
    of `linear` must recover PCA."""
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
    learned projections (`projection`, `segment`); 0: a linear map."""

    @property
    def stride(self) -> int:
        """Return the pixels per side, or audio samples, per position of the coarsest map."""
        return self.patch * self.downsample ** (len(self.widths) - 1)


IMAGE_PRESETS: dict[int, NetworkConfig] = {
    8: NetworkConfig(patch=1, widths=(32, 64), blocks=1, hidden=256),
    28: NetworkConfig(patch=2, widths=(32, 64), blocks=1),
    32: NetworkConfig(patch=2, widths=(64, 96), blocks=1, hidden=1024),
    64: NetworkConfig(patch=4, widths=(64, 96), blocks=2, hidden=1024),
}
"""Network presets by image side, in pixels."""
AUDIO_PRESET = NetworkConfig(patch=8, widths=(64, 128, 192), downsample=4, blocks=3, hidden=1024)
"""The network preset for audio."""


class AutoencoderConfig(Config):
    """An ordered autoencoder: networks, code layout, quantizer and fill."""

    layout: Literal["channel", "spatial", "residual_vq", "projection", "segment"] = "projection"
    """What one code describes. `channel`: a latent channel (the paper). `spatial`: a position of
    the feature map (ordinary VQ-VAE). `residual_vq`: residual vector quantization, several codes
    for each position. `projection`: a learned projection of the whole map. `segment`: global codes
    first, then codes for each of `segments` parts."""
    scan_order: Literal["raster", "bayer"] = "raster"
    """Order of the positions within a level, for layout `residual_vq`: `raster`, row by row,
    or `bayer`, in which each position is far from those before it."""
    segments: int = Field(1, ge=1)
    """Number of segments, for layout `segment`: parts of an audio clip along time, or square
    blocks of an image. For images it is a square number."""
    global_codes: int = Field(1, ge=0)
    """Number of codes that describe the whole sample, for layout `segment`. They come first;
    with 0, the codes start with the first level of the segments."""
    linear_skip: bool = False
    """Add a linear map from samples to code vectors, and one back, beside the networks, for
    layouts `projection` and `segment`. The networks learn the remainder. Segments of this map
    overlap."""
    noise_bands: int = Field(0, ge=0)
    """Frequency bands per segment for noise substitution, for audio with layout `segment` and a
    linear skip. Codes carry the loudness of each band, and the decoder fills missing loudness
    with noise; 0: off."""
    code_length: int | None = Field(None, ge=1)
    """L, the number of codes of a sample. Layout `spatial` derives it from the feature map; the
    others need it."""
    code_width: int | None = Field(None, ge=1)
    """D, the width of a code vector. Layout `channel` derives it from the feature map, and `fsq`
    from its levels; otherwise it is needed."""
    quantizer: QuantizerConfig = QuantizerConfig()
    """The quantizer of code vectors, and how its codebooks are learned."""
    fill: Literal["zeros", "learned"] = "learned"
    """Vectors at truncated positions: zeros (the paper), or one learned vector per position."""
    network: NetworkConfig | None = None
    """The encoder and decoder networks; None: the preset for the image side, or for audio."""

    @model_validator(mode="after")
    def _check_linear_network(self) -> Self:
        if self._is_linear and self.layout != "projection":
            raise ValueError(
                f"a linear network has no maps for layout={self.layout}; use layout=projection"
            )
        return self

    @model_validator(mode="after")
    def _check_linear_skip(self) -> Self:
        if self.linear_skip and (self.layout not in ("projection", "segment") or self._is_linear):
            raise ValueError(
                f"linear_skip goes with convolutions and layout=projection or segment, not with "
                f"layout={self.layout}{' and a linear network' if self._is_linear else ''}; drop it"
            )
        return self

    @model_validator(mode="after")
    def _check_noise_bands(self) -> Self:
        segments = self.layout == "segment" and self.global_codes == 0
        if self.noise_bands and not (segments and self.linear_skip):
            raise ValueError(
                f"noise_bands is {self.noise_bands}, which needs layout=segment, global_codes=0 "
                "and linear_skip; set them, or drop it"
            )
        return self

    @model_validator(mode="after")
    def _check_residual_vq(self) -> Self:
        quantizer = self.quantizer
        fits = quantizer.kind == "vq" and quantizer.error_feedback and not quantizer.shared_codebook
        if self.layout == "residual_vq" and not fits:
            raise ValueError(
                "layout=residual_vq needs quantizer.kind=vq with error_feedback and a codebook "
                "a level"
            )
        return self

    @model_validator(mode="after")
    def _check_scan_order(self) -> Self:
        if self.scan_order != "raster" and self.layout != "residual_vq":
            raise ValueError(
                f"scan_order={self.scan_order} is for layout=residual_vq, not for "
                f"layout={self.layout}; drop it"
            )
        return self

    @model_validator(mode="after")
    def _check_residual_pca_init(self) -> Self:
        quantizer = self.quantizer
        if quantizer.init == "residual_pca":
            fits = self.layout == "segment" and self.linear_skip and self.global_codes == 0
            alike = quantizer.kind == "vq" and quantizer.error_feedback
            if not fits or not alike or quantizer.shared_codebook:
                raise ValueError(
                    "quantizer.init=residual_pca needs layout=segment, global_codes=0, linear_skip "
                    "and kind=vq with error_feedback and a codebook a level; set them, or "
                    "init=kmeans"
                )
        return self

    def _check_noise(self, sample_shape: tuple[int, ...]) -> None:
        if len(sample_shape) != 2 or sample_shape[0] != 1:
            raise InputError(
                f"autoencoder.noise_bands is {self.noise_bands}, and samples of shape "
                f"{sample_shape} are no mono sounds; drop it"
            )
        most = sample_shape[1] // self.segments // 4
        if self.noise_bands > most:
            raise InputError(
                f"autoencoder.noise_bands is {self.noise_bands}, and segments of "
                f"{sample_shape[1] // self.segments} samples have room for {most}; use fewer"
            )

    @property
    def _is_linear(self) -> bool:
        return self.network is not None and self.network.kind == "linear"

    def resolve(self, sample_shape: tuple[int, ...]) -> Self:
        """Return the configuration with network, code length and code width filled in.

        Args:
            sample_shape: (C, H, W) of images, (C, T) of audio.

        Raises:
            InputError: the shape does not fit, or a size is missing or contradicts the layout.
        """
        images = len(sample_shape) == 3
        network = self.network or (_image_preset(sample_shape) if images else AUDIO_PRESET)
        if images and sample_shape[1] != sample_shape[2]:
            raise InputError(
                f"images must be square, got {sample_shape[1]}x{sample_shape[2]}; set data.size"
            )
        if images and network.downsample != 2:
            raise InputError(
                f"autoencoder.network.downsample is {network.downsample}, and images have 2; "
                "drop it"
            )
        if network.kind == "conv" and sample_shape[1] % network.stride:
            size = "x".join(map(str, sample_shape[1:]))
            what, setting = f"{size} images", "data.size"
            if not images:
                what, setting = f"sounds of {size} samples", "data.audio.seconds"
            raise InputError(
                f"{what} are not divisible by the network's stride {network.stride}; change "
                f"{setting} or autoencoder.network"
            )
        positions = math.prod(side // network.stride for side in sample_shape[1:])
        fixed_length = positions if self.layout == "spatial" else None
        fixed_width = positions if self.layout == "channel" else None
        if self.quantizer.kind == "fsq":
            if fixed_width not in (None, len(self.quantizer.levels)):
                raise InputError(
                    f"fsq has {len(self.quantizer.levels)} levels, a channel holds {fixed_width} "
                    "values; give as many levels, or use layout=projection"
                )
            fixed_width = len(self.quantizer.levels)
        length = _resolve_size("code_length", self.code_length, fixed_length, self.layout)
        if self.layout == "residual_vq" and length % positions:
            raise InputError(
                f"autoencoder.code_length is {length}, and the map has {positions} positions, with "
                f"as many codes each; set it to {max(1, length // positions) * positions}"
            )
        if self.noise_bands:
            self._check_noise(sample_shape)
        if self.layout == "segment":
            _check_segments(length, self.global_codes, self.segments, sample_shape, network)
        return self.model_copy(
            update={
                "network": network,
                "code_length": length,
                "code_width": _resolve_size(
                    "code_width", self.code_width, fixed_width, self.layout
                ),
            }
        )


def _image_preset(sample_shape: tuple[int, ...]) -> NetworkConfig:
    _, height, width = sample_shape
    if height not in IMAGE_PRESETS:
        raise InputError(
            f"no network preset for {height}x{width} images (there are {sorted(IMAGE_PRESETS)}); "
            "set autoencoder.network, or data.size to one of these"
        )
    return IMAGE_PRESETS[height]


def _check_segments(
    length: int,
    num_global: int,
    segments: int,
    sample_shape: tuple[int, ...],
    network: NetworkConfig,
) -> None:
    positions, axes = sample_shape[1] // network.stride, len(sample_shape) - 1
    count = round(segments ** (1 / axes))
    if count**axes != segments or positions % count:
        small = [count for count in range(1, math.isqrt(positions) + 1) if positions % count == 0]
        divisors = sorted({*small, *(positions // count for count in small)})
        possible = ", ".join(str(count**axes) for count in divisors)
        shape = "x".join([str(positions)] * axes)
        raise InputError(
            f"autoencoder.segments is {segments}, and a map of {shape} positions has equal parts "
            f"for {possible}; choose one of these, or another network"
        )
    if length <= num_global or (length - num_global) % segments:
        below = num_global + max(1, (length - num_global) // segments) * segments
        raise InputError(
            f"autoencoder.code_length is {length}: {num_global} for the whole leave no equal "
            f"number for each of {segments} segments; set it to {below} or {below + segments}"
        )


def _resolve_size(name: str, configured: int | None, implied: int | None, layout: str) -> int:
    if configured is None and implied is None:
        raise InputError(f"autoencoder.{name} is needed for layout={layout}; set it, e.g. to 16")
    if configured is not None and implied is not None and configured != implied:
        raise InputError(
            f"autoencoder.{name} is {configured}, but layout={layout} gives {implied}; drop it"
        )
    return configured if configured is not None else implied  # type: ignore[return-value]
