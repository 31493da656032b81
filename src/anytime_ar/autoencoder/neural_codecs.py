"""Neural audio codecs of Hugging Face's transformers as tokenizers: EnCodec, DAC and Mimi.

A codec encodes each frame of a sound by several levels of residual vector quantization. Here the
codes are in level-major order: level 1 of all frames, then level 2 of all frames, and so on. So
every prefix is a sound. Where a level is drawn in part, the frames that lack it are decoded from
the levels before it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.autoencoder.tokenizer import Tokenizer
from anytime_ar.autoencoder.truncation import kept_mask
from anytime_ar.codes import check_codes
from anytime_ar.errors import InputError, require_extras
from anytime_ar.plugins import (
    build_transformers_model,
    check_arguments,
    load_transformers_model,
    register,
    transformers_config,
    transformers_weights,
)
from anytime_ar.runtime.torch_modes import default_torch_modes
from anytime_ar.samples import check_samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("neural_codec")
class CodecTokenizer(Tokenizer):
    """A neural audio codec of transformers as a tokenizer of mono sounds of one length.

    Args:
        model: `EncodecModel`, `DacModel` or `MimiModel`.
        samples: T, the length of a sound in samples, at the sampling rate of the codec.
        levels: number of levels of residual quantization, Q; None: all of the codec. L is Q times
            the number of frames.
        frames: number of frames of a sound; None: encode silence, and count them.

    Raises:
        InputError: the model is another one, has fewer levels, takes stereo sounds, or normalizes
            loudness, which codes alone do not hold.
        MissingExtraError: transformers is not installed.
    """

    @default_torch_modes(grad=True)
    def __init__(
        self,
        model: PreTrainedModel,
        samples: int,
        levels: int | None = None,
        *,
        frames: int | None = None,
    ) -> None:
        """Check the codec, and count the frames of a sound."""
        require_extras("a neural codec", "hf")
        super().__init__()
        config = model.config
        kind = config.model_type
        if kind not in _CODECS:
            raise InputError(
                f"{type(model).__name__} is no known codec; pass one of {', '.join(_CODECS)}, or "
                "write a Tokenizer of your own"
            )
        if getattr(config, "audio_channels", 1) != 1 or getattr(config, "normalize", False):
            raise InputError(
                f"{type(model).__name__} takes stereo sounds or normalizes loudness; use a mono "
                "codec without normalization, such as that of EnCodec at 24 kHz"
            )
        self.model, self.levels = model.eval(), levels or _level_count(model)
        if not 1 <= self.levels <= _level_count(model):
            raise InputError(
                f"levels={levels}: this codec has {_level_count(model)}; pass 1 to that"
            )
        self.sample_shape = (1, samples)
        self.sample_rate: int = config.sampling_rate
        self.vocabulary = config.codebook_size
        if frames is None:
            with torch.no_grad():
                silence = torch.zeros(1, 1, samples, device=model.device, dtype=model.dtype)
                frames = self._encode_levels(silence).shape[2]
        self.frames = frames
        self.code_length = self.levels * self.frames

    @property
    def time_segments(self) -> int:
        """Return the number of frames; see `Tokenizer.time_segments`."""
        return self.frames

    @default_torch_modes()
    def encode(self, x: Tensor) -> Tensor:
        """Encode sounds: float32 [B, 1, T] in [-1, 1] -> int64 [B, L], level by level.

        Raises:
            InputError: the shape is another one, or a number is not finite.
        """
        check_samples(x, self.sample_shape)
        return self._encode_levels(x.to(self.model.dtype)).flatten(1)

    @default_torch_modes()
    def decode(self, codes: Tensor) -> Tensor:
        """Decode a prefix of codes: int64 [B, k], 1 <= k <= L -> float32 [B, 1, T].

        Raises:
            InputError: the prefix is empty or longer than L, or a code is out of range.
        """
        check_codes(codes, code_length=self.code_length, vocabulary=self.vocabulary)
        batch, drawn = codes.shape
        whole, partial = divmod(drawn, self.frames)
        needed = math.ceil(drawn / self.frames)
        levels = F.pad(codes, (0, needed * self.frames - drawn)).view(batch, needed, self.frames)
        vectors = self._vectors(levels)  # [B, D, frames]
        if partial:
            before = self._vectors(levels[:, :whole]) if whole else torch.zeros_like(vectors)
            has_code = kept_mask(torch.tensor([partial], device=codes.device), self.frames)
            vectors = torch.where(has_code, vectors, before)
        x = self._synthesize(vectors).float().view(batch, 1, -1)
        length = self.sample_shape[1]
        return F.pad(x, (0, max(0, length - x.shape[2])))[..., :length].clamp(-1, 1)

    def get_config(self) -> dict[str, Any]:
        """Return length, levels and configuration of the codec, for `from_config`."""
        return {
            "model": transformers_config(self.model),
            "samples": self.sample_shape[1],
            "levels": self.levels,
            "frames": self.frames,
        }

    def weights_of_checkpoint(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights from files that `save_pretrained` of the model wrote."""
        weights = transformers_weights(self.model, stored)
        return {f"model.{name}": weight for name, weight in weights.items()}

    @classmethod
    @default_torch_modes(grad=True)
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build a codec from `get_config`, with random weights.

        Raises:
            InputError: the configuration is of no codec of the installed transformers.
        """
        require_extras("a neural codec", "hf")
        model = build_transformers_model("AutoModel", config["model"], "the tokenizer is no codec")
        # Codecs keep what they compute from weights, so nothing is encoded before they are loaded.
        return cls(model, config["samples"], config["levels"], frames=config["frames"])

    @classmethod
    @default_torch_modes(grad=True)
    def from_pretrained(
        cls, name: str, samples: int, levels: int | None = None, *, revision: str | None = None
    ) -> Self:
        """Load a codec with its weights.

        Args:
            name: folder that `save_pretrained` wrote, or Hub ID.
            samples: see the class.
            levels: see the class.
            revision: branch, tag or commit of the Hub; None: the newest one.

        Raises:
            InputError: there is no such model, or it is no codec.
        """
        require_extras("a neural codec", "hf")
        return cls(load_transformers_model("AutoModel", name, revision), samples, levels)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Load or build a codec from the settings of a user.

        Args:
            settings: arguments of `from_pretrained`; or `model` with the configuration of a codec,
                `samples` and `levels`, for random weights.

        Raises:
            InputError: a setting is unknown or missing, or there is no such model.
        """
        if "name" in settings:
            return cls.from_pretrained(**check_arguments(cls.from_pretrained, settings))
        given = {"levels": None, "frames": None} | settings
        if given.keys() != {"model", "samples", "levels", "frames"}:
            raise InputError(
                f"a neural codec has the settings {', '.join(settings) or 'none'}; give name, "
                "samples and perhaps levels and revision, as of CodecTokenizer.from_pretrained"
            )
        return cls.from_config(given)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration and the weights, because weight normalization cannot be."""
        return _rebuild, (self.get_config(), self.state_dict())

    def _encode_levels(self, x: Tensor) -> Tensor:
        """Encode sounds to the codes of each level: [B, 1, T] -> int64 [B, Q, frames]."""
        model: Any = self.model
        match model.config.model_type:
            case "encodec":
                codes = model.quantizer.encode(model.encoder(x)).transpose(0, 1)
            case "dac":
                codes = model.encode(x, n_quantizers=self.levels).audio_codes
            case _:
                codes = model.encode(x).audio_codes
        return codes[:, : self.levels]

    def _vectors(self, levels: Tensor) -> Tensor:
        """Add the vectors of the first q levels: int64 [B, q, frames] -> [B, D, frames]."""
        model: Any = self.model
        match model.config.model_type:
            case "encodec":
                vectors = model.quantizer.decode(levels.transpose(0, 1))
            case "dac":
                vectors = model.quantizer.from_codes(levels)[0]
            case _:
                vectors = model.quantizer.decode(levels)
        assert isinstance(vectors, Tensor)
        return vectors

    def _synthesize(self, vectors: Tensor) -> Tensor:
        """Decode vectors to sounds: [B, D, frames] -> [B, 1, T'] or [B, T']."""
        decoded: Any = self.model.decoder(vectors)
        sounds = decoded if isinstance(decoded, Tensor) else decoded.audio_values
        assert isinstance(sounds, Tensor)
        return sounds


@default_torch_modes()
def _rebuild(config: dict[str, Any], weights: dict[str, Tensor]) -> CodecTokenizer:
    """Build a tokenizer from its configuration and weights."""
    tokenizer = CodecTokenizer.from_config(config)
    tokenizer.load_state_dict(weights)
    return tokenizer.eval()


_CODECS = ("encodec", "dac", "mimi")
"""Model types of transformers that are known."""


def _level_count(model: PreTrainedModel) -> int:
    """Return the number of levels of a codec."""
    config = model.config
    if config.model_type == "dac":
        return int(config.n_codebooks)
    return int(
        model.quantizer.num_quantizers if config.model_type == "encodec" else config.num_quantizers
    )
