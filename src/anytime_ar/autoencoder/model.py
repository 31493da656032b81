"""The ordered autoencoder (paper section 3): samples to ordered codes, and back from any prefix.

Letters: `B` batch, `L` code length, `D` code width, `V` vocabulary, `k` codes of a prefix (1..L),
`S` segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from anytime_ar.autoencoder.config import AutoencoderConfig, CustomConfig
from anytime_ar.autoencoder.layouts import SegmentLayout
from anytime_ar.autoencoder.quantizers import (
    LevelQuantizer,
    QuantizerConfig,
    VectorQuantizerConfig,
)
from anytime_ar.autoencoder.quantizers.level import init_residual_pca
from anytime_ar.autoencoder.quantizers.vector import EMA_BUFFERS
from anytime_ar.autoencoder.tokenizer import Tokenizer
from anytime_ar.autoencoder.truncation import kept_mask, truncate
from anytime_ar.codes import check_codes
from anytime_ar.errors import InputError
from anytime_ar.runtime.tensors import device_of
from anytime_ar.runtime.torch_modes import default_torch_modes
from anytime_ar.samples import check_samples


class Decoded(NamedTuple):
    """The decoder's output before noise substitution: samples and the coded loudness."""

    samples: Tensor
    """Decoded samples, float [B, *sample_shape]."""
    loudness: Tensor | None
    """Target loudness of each band, float [B, S, bands], in weighted nepers; None: no noise
    substitution."""


class Reconstruction(NamedTuple):
    """What `OrderedAutoencoder.forward` returns of a batch of samples."""

    samples: Tensor
    """Decoded samples, float [B, *sample_shape]."""
    codes: Tensor
    """All codes of the samples, int64 [B, L]."""
    loss: Tensor
    """Codebook and commitment terms of the quantizer, a scalar."""


class OrderedAutoencoder(Tokenizer):
    """Encoder, quantizer and decoder over L ordered codes.

    Either a configuration describes all modules, or encoder and decoder are any modules between
    samples and L code vectors of width D.

    Args:
        config: sizes that are left open are derived from the sample shape; None: pass `encoder` and
            `decoder`.
        sample_shape: (C, H, W) of images, (C, T) of audio.
        encoder: module from samples float [B, *sample_shape] to code vectors float [B, L, D].
        decoder: module from code vectors to samples.
        quantizer: settings of the quantizer of the code vectors of `encoder`.
        fill: vectors at truncated positions, where `encoder` is given; see `AutoencoderConfig`.

    Raises:
        InputError: the configuration or the modules do not fit the sample shape.
    """

    fill: Tensor

    @default_torch_modes(grad=True, keep_device=True)
    def __init__(
        self,
        config: AutoencoderConfig | None = None,
        sample_shape: tuple[int, ...] = (),
        *,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        quantizer: QuantizerConfig = VectorQuantizerConfig(),  # noqa: B008
        fill: Literal["zeros", "learned"] = "learned",
    ) -> None:
        """Build networks, layout, quantizer and fill from a configuration, or from modules."""
        super().__init__()
        sample_shape = tuple(sample_shape)
        if encoder is not None and decoder is not None and config is None:
            custom = CustomConfig(quantizer=quantizer, fill=fill)
            config = custom = custom.sized_by(encoder, sample_shape)
            with device_of(encoder):
                parts = custom.parts_of(encoder, decoder, sample_shape)
        elif config is not None and encoder is None and decoder is None:
            config = config.resolve(sample_shape)
            parts = config.build(sample_shape)
        else:
            raise InputError(
                "an ordered autoencoder takes either a configuration, or an encoder and a decoder; "
                "pass one of the two"
            )
        self.config, self.sample_shape = config, sample_shape
        self.code_length, self.code_width = config.sizes
        self.vocabulary: int = config.quantizer.size
        self.encoder, self.decoder, self.layout = parts.encoder, parts.decoder, parts.layout
        self.linear_skip, self.quantizer = parts.linear_skip, parts.quantizer
        device = torch.empty(0).device if encoder is None else device_of(encoder)
        vectors = torch.zeros(self.code_length, self.code_width, device=device)
        if config.fill == "learned":
            self.fill = nn.Parameter(vectors)  # [L, D]
        else:
            self.register_buffer("fill", vectors, persistent=False)

    @property
    def time_segments(self) -> int | None:
        """Return the number of segments of a sound or series; see `Tokenizer.time_segments`."""
        layout = self.layout
        if not isinstance(layout, SegmentLayout) or layout.num_global or len(layout.shape) != 1:
            return None
        return layout.segments

    def init_codebooks(self, batches: Sequence[Tensor], generator: torch.Generator) -> None:
        """Initialise the codebooks before training.

        Args:
            batches: float32 [B, *sample_shape] each.
            generator: source of randomness, on the CPU.
        """
        match self.config.quantizer.kind, self.linear_skip, self.quantizer:
            case "residual_pca", SegmentLayout() as skip, LevelQuantizer() as levels:
                with torch.autocast(batches[0].device.type, enabled=False):
                    init_residual_pca(skip, levels, torch.cat(list(batches)), generator)
            case _:
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

    @default_torch_modes()
    def codebook_vectors(self) -> Tensor:
        """Return the vector of each code at each position: float32 [L, V, D]."""
        every = torch.arange(self.vocabulary, device=self.fill.device)
        return self.quantizer.lookup(every[:, None].expand(-1, self.code_length)).transpose(0, 1)

    def forward(self, x: Tensor, num_kept: Tensor | None = None) -> Reconstruction:
        """Reconstruct samples from prefixes of their codes, with gradients for training.

        Args:
            x: float32 [B, *sample_shape].
            num_kept: k of each sample, int64 [B], 1..L, such as `Truncation.sample` draws them;
                None: all codes.
        """
        if num_kept is None:
            num_kept = torch.full((len(x),), self.code_length, device=x.device)
        mask = kept_mask(num_kept, self.code_length)
        quantized = self.quantizer(self.encode_vectors(x), mask)
        decoded = self.decode_vectors(quantized.vectors, num_kept)
        return Reconstruction(decoded.samples, quantized.codes, quantized.loss)

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
        return Decoded(x, self.linear_skip.decoded_loudness(vectors))

    def loudness(self, x: Tensor) -> Tensor | None:
        """Measure the loudness that decoded samples should have: float [B, 1, T] -> [B, S, bands].

        Returns:
            None if the model does not substitute noise.
        """
        return None if self.linear_skip is None else self.linear_skip.loudness(x)

    @default_torch_modes()
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

    @default_torch_modes()
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
        if self.linear_skip is not None and loudness is not None:
            x = self.linear_skip.fill_noise(x.float(), loudness.float())
        return x.float().clamp(-1, 1)
