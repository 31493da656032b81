"""The ordered autoencoder (paper section 3): samples to ordered codes, and back from any prefix.

Letters: `B` batch, `L` code length, `D` code width, `V` vocabulary, `k` codes of a prefix (1..L),
`S` segments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anytime_ar.autoencoder.config import AutoencoderConfig
from anytime_ar.autoencoder.layouts import (
    ChannelLayout,
    Layout,
    NoiseSubstitutionSkip,
    ProjectionLayout,
    ResidualVQLayout,
    SegmentLayout,
    SpatialLayout,
)
from anytime_ar.autoencoder.networks.audio import AudioDecoder, AudioEncoder
from anytime_ar.autoencoder.networks.image import ImageDecoder, ImageEncoder
from anytime_ar.autoencoder.quantizers import LevelQuantizer, Quantizer, build_quantizer
from anytime_ar.autoencoder.quantizers.vector import EMA_BUFFERS
from anytime_ar.autoencoder.residual_pca_init import init_residual_pca
from anytime_ar.autoencoder.truncation import truncate
from anytime_ar.codes import check_codes
from anytime_ar.samples import check_samples

NETWORKS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {
    1: (AudioEncoder, AudioDecoder),
    2: (ImageEncoder, ImageDecoder),
}
"""Encoder and decoder classes by the number of dimensions of a sample, channels not counted."""


class Decoded(NamedTuple):
    """The decoder's output before noise substitution: samples and the coded loudness."""

    samples: Tensor
    """Decoded samples, float [B, *sample_shape]."""
    loudness: Tensor | None
    """Target loudness of each band, float [B, S, bands], in weighted nepers; None: no noise
    substitution."""


class OrderedAutoencoder(nn.Module):
    """Encoder, quantizer and decoder over L ordered codes.

    Args:
        config: sizes that are left open are derived from the sample shape.
        sample_shape: (C, H, W) of images, (C, T) of audio.

    Raises:
        InputError: the configuration does not fit the sample shape.
    """

    fill: Tensor

    def __init__(self, config: AutoencoderConfig, sample_shape: tuple[int, ...]) -> None:
        """Build networks, layout, quantizer and fill from a configuration."""
        super().__init__()
        self.config = config = config.resolve(sample_shape)
        assert config.code_length is not None
        assert config.code_width is not None
        assert config.network is not None
        self.sample_shape = sample_shape
        self.code_length: int = config.code_length
        self.code_width: int = config.code_width
        self.vocabulary: int = config.quantizer.size
        if config.network.kind == "linear":
            self.encoder, self.decoder, self.layout = self._build_linear()
        else:
            self.encoder, self.decoder, self.layout = self._build_convolutional()
        self.linear_skip: Layout | None = None
        if config.linear_skip:
            self.linear_skip = self._build_linear_skip()
            _zero_init_output(self.layout, self.decoder)
        self.quantizer = self._build_quantizer()
        fill = torch.zeros(self.code_length, self.code_width)
        if config.fill == "learned":
            self.fill = nn.Parameter(fill)  # [L, D]
        else:
            self.register_buffer("fill", fill, persistent=False)

    def _build_linear(self) -> tuple[nn.Module, nn.Module, Layout]:
        """Return encoder, decoder and layout of a linear autoencoder."""
        flat = math.prod(self.sample_shape)
        layout = ProjectionLayout(
            self.code_length, self.code_width, features=flat, shape=(), hidden=0
        )
        encoder = nn.Flatten()
        decoder = nn.Unflatten(1, self.sample_shape)
        return encoder, decoder, layout

    def _build_convolutional(self) -> tuple[nn.Module, nn.Module, Layout]:
        """Return encoder, decoder and layout of a convolutional autoencoder."""
        network = self.config.network
        assert network
        channels, *sides = self.sample_shape
        shape = tuple(side // network.stride for side in sides)
        # A quarter of the widest map carries the codes well enough. With more features, most of the
        # model's weights would be in the two projections of `vector` and `segment`.
        layout = self._build_layout(max(1, network.widths[-1] // 4), shape, network.hidden)
        encoder, decoder = NETWORKS[len(shape)]
        return (
            encoder(network, channels, layout.features),
            decoder(network, channels, layout.features),
            layout,
        )

    def _build_layout(
        self, features: int, shape: tuple[int, ...], hidden: int, *, overlapping: bool = False
    ) -> Layout:
        """Return the configured layout.

        Args:
            features: F, channels of the feature map, for layouts that do not fix them.
            shape: sides of the feature map.
            hidden: width of a hidden layer in learned projections; 0: linear.
            overlapping: whether neighbouring segments overlap.
        """
        match self.config.layout:
            case "channel":
                return ChannelLayout(self.code_length, shape)
            case "spatial":
                return SpatialLayout(self.code_width, shape)
            case "residual_vq":
                levels = self.code_length // math.prod(shape)
                return ResidualVQLayout(levels, self.code_width, shape, self.config.scan_order)
            case "projection":
                return ProjectionLayout(self.code_length, self.code_width, features, shape, hidden)
            case "segment":
                return SegmentLayout(
                    self.config.global_codes,
                    self._levels,
                    self.config.segments,
                    self.code_width,
                    features,
                    shape,
                    hidden,
                    overlapping=overlapping,
                )

    def _build_linear_skip(self) -> Layout:
        """Return the linear map between samples and code vectors."""
        channels, *sides = self.sample_shape
        if bands := self.config.noise_bands:
            segments = self.config.segments
            return NoiseSubstitutionSkip(self._levels, segments, self.code_width, sides[0], bands)
        return self._build_layout(channels, tuple(sides), hidden=0, overlapping=True)

    @property
    def _levels(self) -> int:
        """Return M, the number of codes of each segment."""
        return (self.code_length - self.config.global_codes) // self.config.segments

    def _build_quantizer(self) -> Quantizer:
        """Return the quantizer for the configured layout."""
        config, layout = self.config, self.layout
        if isinstance(layout, ResidualVQLayout):
            positions = math.prod(layout.shape)
            return LevelQuantizer(
                config.quantizer, 0, layout.levels, positions, self.code_width, residual=True
            )
        if config.layout == "segment" and config.quantizer.kind == "vq":
            return LevelQuantizer(
                config.quantizer,
                config.global_codes,
                self._levels,
                config.segments,
                self.code_width,
            )
        return build_quantizer(config.quantizer, self.code_length, self.code_width)

    def init_codebooks(self, batches: Sequence[Tensor], generator: torch.Generator) -> None:
        """Initialise the codebooks before training.

        Args:
            batches: float32 [B, *sample_shape] each.
            generator: source of randomness, on the CPU.
        """
        if self.config.quantizer.init == "residual_pca":
            assert isinstance(self.linear_skip, SegmentLayout)
            assert isinstance(self.quantizer, LevelQuantizer)
            with torch.autocast(batches[0].device.type, enabled=False):
                init_residual_pca(
                    self.linear_skip, self.quantizer, torch.cat(list(batches)), generator
                )
            return
        with torch.no_grad():
            vectors = torch.cat([self.encode_vectors(batch).float() for batch in batches])
            self.quantizer.init_codebooks(vectors, generator)

    def freeze_encoder(self) -> None:
        """Train only the parameters of decoding, so that the codes of samples do not change."""
        for name, parameter in self.named_parameters():
            decodes = name == "fill" or name.startswith("decoder.") or ".expand" in name
            parameter.requires_grad_(decodes)

    def inference_state(self) -> dict[str, Tensor]:
        """Return `state_dict` without the EMA buffers of codebooks, which only training needs.

        Loading such a state sets these buffers to their initial values.
        """
        state = self.state_dict()
        return {key: value for key, value in state.items() if key.split(".")[-1] not in EMA_BUFFERS}

    @torch.no_grad()
    def codebook_vectors(self) -> Tensor:
        """Return the vector of each code at each position: float32 [L, V, D]."""
        every = torch.arange(self.vocabulary, device=self.fill.device)
        return self.quantizer.lookup(every[:, None].expand(-1, self.code_length)).transpose(0, 1)

    def encode_vectors(self, x: Tensor) -> Tensor:
        """Encode samples to continuous code vectors: float [B, *sample_shape] -> [B, L, D]."""
        vectors = self.layout.to_vectors(self.encoder(x))
        return vectors if self.linear_skip is None else vectors + self.linear_skip.to_vectors(x)

    def decode_vectors(self, vectors: Tensor, num_kept: Tensor) -> Decoded:
        """Decode a prefix of code vectors to samples.

        Args:
            vectors: float [B, L, D].
            num_kept: k of each sample, int64 [B], 1..L; vectors after it are replaced by the fill.

        Returns:
            Samples float [B, *sample_shape], and the loudness if the model substitutes noise.
        """
        vectors = truncate(vectors, num_kept, self.fill)
        x = self.decoder(self.layout.to_features(vectors))
        if self.linear_skip is None:
            return Decoded(x, None)
        x = x + self.linear_skip.to_features(vectors)
        if not isinstance(self.linear_skip, NoiseSubstitutionSkip):
            return Decoded(x, None)
        return Decoded(x, self.linear_skip.decoded_loudness(vectors))

    def loudness(self, x: Tensor) -> Tensor | None:
        """Measure the loudness that decoded samples should have: float [B, 1, T] -> [B, S, bands].

        Returns:
            None if the model does not substitute noise.
        """
        path = self.linear_skip
        return path.loudness(x) if isinstance(path, NoiseSubstitutionSkip) else None

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Encode samples to codes, coarse to fine.

        Args:
            x: float32 [B, *sample_shape] in [-1, 1].

        Returns:
            int64 [B, L] in 0..V-1.

        Raises:
            InputError: the shape is not [B, *sample_shape], the type is not float32, or a number is
                not finite.
        """
        check_samples(x, self.sample_shape)
        return self.quantizer.encode(self.encode_vectors(x))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Decode a prefix of codes to complete samples.

        Args:
            codes: int64 [B, k], 1 <= k <= L.

        Returns:
            float32 [B, *sample_shape] in [-1, 1].

        Raises:
            InputError: the prefix is empty or longer than L, or a code is outside 0..V-1.
        """
        check_codes(codes, code_length=self.code_length, vocabulary=self.vocabulary)
        batch, num_kept = codes.shape
        prefix = self.quantizer.lookup(codes)  # [B, k, D]
        vectors = nn.functional.pad(prefix, (0, 0, 0, self.code_length - num_kept))  # [B, L, D]
        x, loudness = self.decode_vectors(
            vectors, torch.full((batch,), num_kept, device=codes.device)
        )
        if loudness is not None:
            assert isinstance(self.linear_skip, NoiseSubstitutionSkip)
            x = self.linear_skip.fill_noise(x.float(), loudness.float())
        return x.float().clamp(-1, 1)


def _zero_init_output(layout: Layout, decoder: nn.Module) -> None:
    """Zero the last layers of the networks, so that the linear skip learns first."""
    if isinstance(layout, ProjectionLayout):
        maps = [layout.project]
    else:
        assert isinstance(layout, SegmentLayout)
        maps = [map_ for map_ in (layout.project, layout.project_part) if map_ is not None]
    convolutions = [m for m in decoder.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]
    last = [*(map_.linear for map_ in maps), *(map_.mlp[-1] for map_ in maps if map_.mlp)]
    for module in [*last, convolutions[-1]]:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
