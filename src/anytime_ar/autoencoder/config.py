"""Configuration of an ordered autoencoder: a class for each layout, which builds the networks."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn

from anytime_ar.autoencoder.layouts import (
    ChannelLayout,
    IdentityLayout,
    Layout,
    ProjectionLayout,
    ResidualVQLayout,
    SegmentLayout,
    SpatialLayout,
    segment_grid,
)
from anytime_ar.autoencoder.networks import NETWORKS, NetworkConfig, network_preset
from anytime_ar.autoencoder.noise_substitution import NoiseSubstitutionSkip
from anytime_ar.autoencoder.quantizers import (
    LappedQuantizerConfig,
    LevelQuantizer,
    Quantizer,
    QuantizerConfig,
    ResidualQuantizerConfig,
    VectorQuantizerConfig,
)
from anytime_ar.config import ConfigUnion
from anytime_ar.errors import InputError
from anytime_ar.plugins import PartConfig, build_module
from anytime_ar.runtime.tensors import check_weights, device_of


class AutoencoderParts(NamedTuple):
    """The modules of an ordered autoencoder."""

    encoder: nn.Module
    """Samples [B, *sample_shape] to features [B, F, *shape]."""
    decoder: nn.Module
    """Features to samples [B, *sample_shape]."""
    layout: Layout
    """Features to code vectors [B, L, D], and back."""
    linear_skip: Layout | None
    """Samples to code vectors beside the networks, and back."""
    quantizer: Quantizer
    """Code vectors [B, L, D] to codes [B, L], and back."""


class AutoencoderConfig(ConfigUnion):
    """An ordered autoencoder: code layout, quantizer, fill and networks."""

    discriminator: ClassVar[str] = "layout"
    default_member: ClassVar[str] = "projection"

    layout: str
    """Name of the layout: what part of a sample one code describes."""
    code_length: int | None = Field(None, ge=1)
    """L, the number of codes of a sample. Layout `spatial` derives it from the feature map; the
    others need it."""
    code_width: int | None = Field(None, ge=1)
    """D, the width of a code vector. Layout `channel` derives it from the feature map, and `fsq`
    from its levels; otherwise it is needed."""
    quantizer: SerializeAsAny[QuantizerConfig] = VectorQuantizerConfig()
    """The quantizer of code vectors, and how its codebooks are learned."""
    fill: Literal["zeros", "learned"] = "learned"
    """Vectors at truncated positions: zeros (the paper), or one learned vector per position."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Return L and D of a resolved configuration."""
        assert self.code_length is not None
        assert self.code_width is not None
        return self.code_length, self.code_width

    @abstractmethod
    def resolve(self, sample_shape: tuple[int, ...]) -> Self:
        """Return the configuration with network, code length and code width filled in.

        Args:
            sample_shape: (C, H, W) of images, (C, T) of audio.

        Raises:
            InputError: the shape does not fit, or a size is missing or contradicts the layout.
        """

    @abstractmethod
    def build(self, sample_shape: tuple[int, ...]) -> AutoencoderParts:
        """Build the modules of a resolved configuration."""

    def _with_sizes(self, length: int | None, width: int | None) -> Self:
        """Fill in L and D, of which the layout may imply one."""
        grid = self.quantizer.code_width
        if grid is not None and width not in (None, grid):
            raise InputError(
                f"fsq has {grid} levels, a channel holds {width} values; give as many levels, "
                "or use layout=projection"
            )
        sizes = {}
        for name, implied in {"code_length": length, "code_width": grid or width}.items():
            configured = getattr(self, name)
            if configured is None and implied is None:
                raise InputError(
                    f"autoencoder.{name} is needed for layout={self.layout}; set it, e.g. to 16"
                )
            if configured is not None and implied not in (None, configured):
                source = f"layout={self.layout}"
                if name == "code_width" and grid is not None:
                    source = f"quantizer.kind={self.quantizer.kind}"
                raise InputError(
                    f"autoencoder.{name} is {configured}, but {source} gives {implied}; drop it or "
                    "set it to null"
                )
            sizes[name] = configured or implied
        return self.model_copy(update=sizes)


class LinearConfig(AutoencoderConfig):
    """A linear autoencoder: one affine map in each direction, whose codes must recover PCA."""

    layout: Literal["linear"] = "linear"

    def resolve(self, sample_shape: tuple[int, ...]) -> Self:  # noqa: ARG002
        """Return the configuration, whose sizes suit every sample shape."""
        return self._with_sizes(None, None)

    def build(self, sample_shape: tuple[int, ...]) -> AutoencoderParts:
        """Build the two maps and the quantizer."""
        features = math.prod(sample_shape)
        layout = ProjectionLayout(*self.sizes, features, shape=(), hidden=0)
        quantizer = self.quantizer.build(*self.sizes)
        decoder = nn.Unflatten(1, sample_shape)
        return AutoencoderParts(nn.Flatten(), decoder, layout, None, quantizer)


class CustomConfig(AutoencoderConfig):
    """Encoder and decoder of your own, between samples and code vectors."""

    layout: Literal["custom"] = "custom"
    encoder: PartConfig | None = None
    """Import path and arguments of a module from samples [B, *sample_shape] to code vectors
    [B, L, D]."""
    decoder: PartConfig | None = None
    """Import path and arguments of a module from code vectors [B, L, D] to samples."""

    def resolve(self, sample_shape: tuple[int, ...]) -> Self:
        """Return the configuration with the L and D that the encoder computes."""
        if self.code_length is not None and self.code_width is not None:
            return self._with_sizes(None, None)
        return self.sized_by(self._build_module("encoder"), sample_shape)

    def sized_by(self, encoder: nn.Module, sample_shape: tuple[int, ...]) -> Self:
        """Return the configuration with the L and D that an encoder computes.

        Raises:
            InputError: it does not compute code vectors [B, L, D], or the sizes are set otherwise.
        """
        vectors = _try_module(encoder, sample_shape, "encoder")
        if vectors.ndim != 3 or len(vectors) != 2 or not vectors.is_floating_point():
            raise InputError(
                f"the encoder returns {vectors.dtype} {list(vectors.shape)} for 2 samples "
                f"{list(sample_shape)}; return float [2, L, D], L code vectors of width D"
            )
        return self._with_sizes(*vectors.shape[1:])

    def build(self, sample_shape: tuple[int, ...]) -> AutoencoderParts:
        """Build the two modules and the quantizer."""
        encoder, decoder = self._build_module("encoder"), self._build_module("decoder")
        return self.parts_of(encoder, decoder, sample_shape)

    def parts_of(
        self, encoder: nn.Module, decoder: nn.Module, sample_shape: tuple[int, ...]
    ) -> AutoencoderParts:
        """Return the modules of a resolved configuration with this encoder and decoder.

        Raises:
            InputError: the decoder does not compute samples.
        """
        self.sized_by(encoder, sample_shape)
        x = _try_module(decoder, self.sizes, "decoder")
        if x.shape != (2, *sample_shape):
            raise InputError(
                f"the decoder returns {list(x.shape)} for 2 samples of {self.sizes[0]} code vectors"
                f" of width {self.sizes[1]}; return {[2, *sample_shape]}"
            )
        quantizer = self.quantizer.build(*self.sizes)
        return AutoencoderParts(encoder, decoder, IdentityLayout(), None, quantizer)

    def _build_module(self, what: Literal["encoder", "decoder"]) -> nn.Module:
        described: PartConfig | None = getattr(self, what)
        if described is None:
            raise InputError(
                f"autoencoder.{what} is needed for layout=custom; set autoencoder.{what}.kind to "
                "the import path of its class, such as my_package.Network"
            )
        return build_module(described, what)


@torch.no_grad()
def _try_module(module: nn.Module, shape: tuple[int, ...], what: str) -> Tensor:
    """Return what a module computes of two inputs of zeros in evaluation mode.

    Args:
        module: the module.
        shape: shape of one input.
        what: what the module is used for, for messages.

    Raises:
        InputError: it cannot compute it, or returns something else than a tensor.
    """
    check_weights(module, what)
    inputs = torch.zeros(2, *shape, dtype=torch.float32, device=device_of(module))
    training = {part: part.training for part in module.modules()}
    try:
        outputs = module.eval()(inputs)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        formats = {str(weight.dtype) for weight in module.parameters()} - {"torch.float32"}
        hint = f"; its weights are {', '.join(sorted(formats))}: convert it with .float()"
        raise InputError(
            f"the {what} cannot compute float32 {list(inputs.shape)}: {error}"
            f"{hint if formats else ''}"
        ) from error
    finally:
        for part, was_training in training.items():
            part.training = was_training
    if not isinstance(outputs, Tensor):
        raise InputError(f"the {what} returns a {type(outputs).__name__}; return a tensor")
    return outputs


class ConvolutionalConfig(AutoencoderConfig):
    """A layout of the feature map of convolutional networks."""

    network: NetworkConfig | None = None
    """The encoder and decoder networks; None: the preset for the shorter side of images, or for the
    length of clips."""

    def resolve(self, sample_shape: tuple[int, ...]) -> Self:
        """Return the configuration with network, code length and code width filled in."""
        network = self.network or network_preset(sample_shape)
        shape = network.map_shape(sample_shape)
        sized = self._with_sizes(*self.implied_sizes(shape))
        sized.check_fit(sample_shape, shape)
        return sized.model_copy(update={"network": network})

    def build(self, sample_shape: tuple[int, ...]) -> AutoencoderParts:
        """Build the networks, the layout of their features, and the quantizer."""
        network, channels = self.network, sample_shape[0]
        assert network is not None
        shape = network.map_shape(sample_shape)
        # A quarter of the widest map carries the codes well enough. With more features, most of the
        # model's weights would be in the learned projections.
        layout = self.build_layout(max(1, network.widths[-1] // 4), shape, network.hidden)
        encoder_class, decoder_class = NETWORKS[len(shape)]
        encoder = encoder_class(network, channels, layout.features)
        decoder = decoder_class(network, channels, layout.features)
        linear_skip = self.build_linear_skip(sample_shape)
        if linear_skip is not None:  # it learns first: zero the last layers of the networks
            layout.zero_init_vectors()
            last = [m for m in decoder.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)][-1]
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        quantizer = self.build_quantizer(math.prod(shape))
        return AutoencoderParts(encoder, decoder, layout, linear_skip, quantizer)

    def implied_sizes(self, shape: tuple[int, ...]) -> tuple[int | None, int | None]:  # noqa: ARG002
        """Return L and D as far as the sides of the feature map fix them."""
        return None, None

    def check_fit(self, sample_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
        """Raise InputError if the layout does not fit the sample or the sides of the map."""

    @abstractmethod
    def build_layout(self, features: int, shape: tuple[int, ...], hidden: int) -> Layout:
        """Build the layout.

        Args:
            features: F, channels of the feature map, for layouts that do not fix them.
            shape: sides of the feature map.
            hidden: width of a hidden layer in learned projections; 0: linear.
        """

    def build_linear_skip(self, sample_shape: tuple[int, ...]) -> Layout | None:  # noqa: ARG002
        """Build the linear map between samples and code vectors; None: there is none."""
        return None

    def build_quantizer(self, positions: int) -> Quantizer:  # noqa: ARG002
        """Build the quantizer of the vectors of a feature map of so many positions."""
        return self.quantizer.build(*self.sizes)


class ChannelConfig(ConvolutionalConfig):
    """A code is a latent channel (the paper)."""

    layout: Literal["channel"] = "channel"

    def implied_sizes(self, shape: tuple[int, ...]) -> tuple[int | None, int | None]:
        """Return D: the positions of a channel."""
        return None, math.prod(shape)

    def build_layout(self, features: int, shape: tuple[int, ...], hidden: int) -> Layout:  # noqa: ARG002
        """Build a layout with L channels."""
        return ChannelLayout(self.sizes[0], shape)


class SpatialConfig(ConvolutionalConfig):
    """A code is a position of the feature map (ordinary VQ-VAE)."""

    layout: Literal["spatial"] = "spatial"

    def implied_sizes(self, shape: tuple[int, ...]) -> tuple[int | None, int | None]:
        """Return L: the number of positions."""
        return math.prod(shape), None

    def build_layout(self, features: int, shape: tuple[int, ...], hidden: int) -> Layout:  # noqa: ARG002
        """Build a layout with D channels."""
        return SpatialLayout(self.sizes[1], shape)


class ResidualVQConfig(ConvolutionalConfig):
    """Residual vector quantization: each position has a code at each level."""

    layout: Literal["residual_vq"] = "residual_vq"
    scan_order: Literal["raster", "bayer"] = "raster"
    """Order of the positions within a level: `raster`, row by row, or `bayer`, in which each
    position is far from those before it."""
    quantizer: ResidualQuantizerConfig = ResidualQuantizerConfig()

    def check_fit(self, sample_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:  # noqa: ARG002
        """Raise InputError unless each position has as many codes."""
        (length, _), positions = self.sizes, math.prod(shape)
        if length % positions:
            raise InputError(
                f"autoencoder.code_length is {length}, and the map has {positions} positions, with "
                f"as many codes each; set it to {max(1, length // positions) * positions}"
            )

    def build_layout(self, features: int, shape: tuple[int, ...], hidden: int) -> Layout:  # noqa: ARG002
        """Build a layout with D channels and as many levels as L gives each position."""
        length, width = self.sizes
        return ResidualVQLayout(length // math.prod(shape), width, shape, self.scan_order)

    def build_quantizer(self, positions: int) -> Quantizer:
        """Build a codebook for each level, which quantizes the remainders of the one before."""
        length, width = self.sizes
        return LevelQuantizer(
            self.quantizer, 0, length // positions, positions, width, residual=True
        )


class ProjectionConfig(ConvolutionalConfig):
    """A code is a learned projection of the whole feature map."""

    layout: Literal["projection"] = "projection"
    linear_skip: bool = False
    """Add a linear map from samples to code vectors, and one back, beside the networks. The
    networks learn the remainder."""

    def build_layout(self, features: int, shape: tuple[int, ...], hidden: int) -> Layout:
        """Build the two learned projections."""
        return ProjectionLayout(*self.sizes, features, shape, hidden)

    def build_linear_skip(self, sample_shape: tuple[int, ...]) -> Layout | None:
        """Build two linear projections of samples, if configured."""
        channels, *sides = sample_shape
        return self.build_layout(channels, tuple(sides), hidden=0) if self.linear_skip else None


class SegmentedConfig(ConvolutionalConfig):
    """Codes of segments, level by level."""

    segments: int = Field(1, ge=1)
    """Number of segments: parts of a clip along time, or square blocks of an image. For square
    images it is a square number."""

    @property
    def num_global(self) -> int:
        """Return G, the number of codes of the whole sample."""
        return 0

    @property
    def segment_sizes(self) -> tuple[int, int, int, int]:
        """Return G, M, S and D of a resolved configuration."""
        length, width = self.sizes
        levels = (length - self.num_global) // self.segments
        return self.num_global, levels, self.segments, width

    def check_fit(self, sample_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:  # noqa: ARG002
        """Raise InputError unless segments are equal parts with as many codes each."""
        segments, common = self.segments, math.gcd(*shape)
        if segment_grid(segments, shape) is None:
            blocks = [side for side in range(1, common + 1) if common % side == 0]
            counts = {1, *(math.prod(shape) // side ** len(shape) for side in blocks)}
            raise InputError(
                f"autoencoder.segments is {segments}, and a map of {'x'.join(map(str, shape))} "
                f"positions has equal parts for {', '.join(map(str, sorted(counts)))}; choose one "
                "of these, or another network"
            )
        length, num_global = self.sizes[0], self.num_global
        if length <= num_global or (length - num_global) % segments:
            below = num_global + max(1, (length - num_global) // segments) * segments
            raise InputError(
                f"autoencoder.code_length is {length}: {num_global} for the whole leave no equal "
                f"number for each of {segments} segments; set it to {below} or {below + segments}"
            )

    def build_layout(self, features: int, shape: tuple[int, ...], hidden: int) -> Layout:
        """Build the maps of the whole sample, if any, and of a segment."""
        return SegmentLayout(*self.segment_sizes, features, shape, hidden)

    def build_linear_skip(self, sample_shape: tuple[int, ...]) -> Layout | None:
        """Build linear maps of samples, whose segments overlap."""
        channels, *sides = sample_shape
        sizes = self.segment_sizes
        return SegmentLayout(*sizes, channels, tuple(sides), hidden=0, overlapping=True)

    def build_quantizer(self, positions: int) -> Quantizer:  # noqa: ARG002
        """Build the quantizer of the levels, which segments share."""
        return self.quantizer.build_levels(*self.segment_sizes)


class SegmentConfig(SegmentedConfig):
    """Global codes of the whole sample first, and then a code for each segment at each level."""

    layout: Literal["segment"] = "segment"
    global_codes: int = Field(1, ge=0)
    """Number of codes that describe the whole sample. They come first; with 0, the codes start
    with the first level of the segments."""
    linear_skip: bool = False
    """Add a linear map from samples to code vectors, and one back, beside the networks. The
    networks learn the remainder. Segments of this map overlap."""

    @property
    def num_global(self) -> int:
        """Return G, the number of codes of the whole sample."""
        return self.global_codes

    def build_linear_skip(self, sample_shape: tuple[int, ...]) -> Layout | None:
        """Build linear maps of samples, whose segments overlap, if configured."""
        return super().build_linear_skip(sample_shape) if self.linear_skip else None


class LappedSegmentConfig(SegmentedConfig):
    """A code for each segment at each level, with a linear skip whose segments overlap."""

    layout: Literal["lapped_segment"] = "lapped_segment"
    noise_bands: int = Field(0, ge=0)
    """Frequency bands per segment for noise substitution, for audio. Codes carry the loudness of
    each band, and the decoder fills missing loudness with noise; 0: off."""
    quantizer: SerializeAsAny[LappedQuantizerConfig] = VectorQuantizerConfig()  # type: ignore[assignment]

    def check_fit(self, sample_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
        """Raise InputError unless segments are equal parts with room for the noise bands."""
        if self.noise_bands and (len(sample_shape) != 2 or sample_shape[0] != 1):
            raise InputError(
                f"autoencoder.noise_bands is {self.noise_bands}, and samples of shape "
                f"{sample_shape} are no mono sounds; drop it"
            )
        size = sample_shape[1] // self.segments
        if self.noise_bands > size // 4:
            raise InputError(
                f"autoencoder.noise_bands is {self.noise_bands}, and segments of {size} samples "
                f"have room for {size // 4}; use fewer"
            )
        super().check_fit(sample_shape, shape)

    def build_linear_skip(self, sample_shape: tuple[int, ...]) -> Layout | None:
        """Build linear maps of samples, and of the loudness of bands."""
        if not self.noise_bands:
            return super().build_linear_skip(sample_shape)
        _, levels, segments, width = self.segment_sizes
        return NoiseSubstitutionSkip(levels, segments, width, sample_shape[1], self.noise_bands)
