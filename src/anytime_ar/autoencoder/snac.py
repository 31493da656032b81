"""SNAC codecs as tokenizers: levels of residual quantization at rates of their own.

The first level of a SNAC codec has the fewest codes, each of which covers the longest time. Codes
are in level-major order: all of level 1, then all of level 2, and so on. So every prefix is a
sound. Where a level is drawn in part, the rest is decoded from the levels before it.
"""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from anytime_ar.autoencoder.tokenizer import Tokenizer
from anytime_ar.codes import check_codes
from anytime_ar.errors import AnytimeError, InputError, require_extras
from anytime_ar.plugins import check_arguments, register
from anytime_ar.runtime.seeding import generator_for
from anytime_ar.runtime.torch_modes import default_torch_modes
from anytime_ar.samples import check_samples

if TYPE_CHECKING:
    from snac import SNAC

_ARGUMENTS = (
    "sampling_rate",
    "encoder_dim",
    "encoder_rates",
    "latent_dim",
    "decoder_dim",
    "decoder_rates",
    "attn_window_size",
    "codebook_size",
    "codebook_dim",
    "vq_strides",
)
"""Arguments of the constructor of `SNAC` that its objects keep."""


@register("snac")
class SnacTokenizer(Tokenizer):
    """A SNAC codec as a tokenizer of mono sounds of one length (Siuzdak et al. 2024).

    The decoder of a codec may add noise in proportion to its signal. Here the noise is the same for
    every sound, so that codes decode to one sound, in any batch.

    Args:
        model: the codec, whose source of noise is replaced.
        samples: T, the length of a sound in samples, at the sampling rate of the codec.
        levels: number of levels of residual quantization, Q; None: all of the codec.

    Raises:
        InputError: the codec has fewer levels, or sounds have no sample.
        MissingExtraError: snac is not installed.
    """

    def __init__(self, model: SNAC, samples: int, levels: int | None = None) -> None:
        """Count the codes of each level."""
        require_extras("a SNAC codec", "snac")
        super().__init__()
        strides = model.vq_strides
        if levels is not None and not 1 <= levels <= len(strides):
            raise InputError(
                f"levels={levels}: this codec has {len(strides)}; pass 1 to that, or None for all"
            )
        if samples < 1:
            raise InputError(f"samples={samples}: a sound has at least one; pass its length")
        self.model = model.eval()
        _fix_noise(self.model)
        hop = int(model.hop_length)
        block = hop * math.lcm(strides[0], model.attn_window_size or 1)
        self._frames = -(-samples // block) * block // hop  # before quantization
        self.level_lengths = tuple(self._frames // stride for stride in strides[:levels])
        """Number of codes of each level, Q numbers."""
        self.code_length = sum(self.level_lengths)
        self.vocabulary = int(model.codebook_size)
        self.sample_shape = (1, samples)
        self.sample_rate = int(model.sampling_rate)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Encode sounds: float32 [B, 1, T] in [-1, 1] -> int64 [B, L], level by level.

        Raises:
            InputError: the shape is another one, or a number is not finite.
        """
        check_samples(x, self.sample_shape)
        return torch.cat(self.model.encode(x)[: len(self.level_lengths)], dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Decode a prefix of codes: int64 [B, k], 1 <= k <= L -> float32 [B, 1, T].

        Raises:
            InputError: the prefix is empty or longer than L, or a code is out of range.
        """
        check_codes(codes, code_length=self.code_length, vocabulary=self.vocabulary)
        shape = len(codes), self.model.latent_dim, self._frames
        vectors = torch.zeros(shape, device=codes.device)  # [B, D, frames]
        first = 0
        for quantizer, length in zip(
            self.model.quantizer.quantizers, self.level_lengths, strict=False
        ):
            drawn = codes[:, first : first + length]
            first += length
            if not drawn.shape[1]:
                break
            added = quantizer.out_proj(quantizer.decode_code(drawn))
            added = added.repeat_interleave(quantizer.stride, dim=-1)
            vectors[..., : added.shape[2]] += added
        x: Tensor = self.model.decoder(vectors)
        return x[..., : self.sample_shape[1]].clamp(-1, 1)

    def get_config(self) -> dict[str, Any]:
        """Return length, levels and arguments of the codec, for `from_config`."""
        model = self.model
        values = {name: getattr(model, name) for name in _ARGUMENTS}
        values["noise"] = any(isinstance(part, _FixedNoise) for part in model.modules())
        values["depthwise"] = model.decoder.model[0].groups > 1
        return {
            "model": values,
            "samples": self.sample_shape[1],
            "levels": len(self.level_lengths),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build a codec from `get_config`, with random weights.

        Raises:
            InputError: the arguments are none of a codec.
        """
        require_extras("a SNAC codec", "snac")
        from snac import SNAC

        try:
            model = SNAC(**config["model"])
        except AnytimeError:  # it is larger than its weights
            raise
        except Exception as error:
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
            raise InputError(
                f"the tokenizer is no SNAC codec ({reason}); give the values of its config.json"
            ) from error
        return cls(model, config["samples"], config["levels"])

    @classmethod
    def from_pretrained(
        cls, name: str, samples: int, levels: int | None = None, *, revision: str | None = None
    ) -> Self:
        """Load a codec with its weights, by the loader of snac.

        Args:
            name: folder with `config.json` and `pytorch_model.bin`, or Hub ID.
            samples: see the class.
            levels: see the class.
            revision: branch, tag or commit of the Hub; None: the newest one.

        Raises:
            InputError: there is no such codec.
        """
        require_extras("a SNAC codec", "snac")
        from snac import SNAC

        try:
            model = SNAC.from_pretrained(name, revision=revision)
        except Exception as error:  # of any type, from several packages
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
            raise InputError(
                f"{name!r} is no SNAC codec that can be loaded ({reason}); pass a folder with its "
                "config.json and pytorch_model.bin, or a Hub ID such as hubertsiuzdak/snac_24khz"
            ) from error
        return cls(model, samples, levels)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Load or build a codec from the settings of a user.

        Args:
            settings: arguments of `from_pretrained`; or `model` with the arguments of a codec,
                `samples` and `levels`, for random weights.

        Raises:
            InputError: a setting is unknown or missing, or there is no such codec.
        """
        if "name" in settings:
            return cls.from_pretrained(**check_arguments(cls.from_pretrained, settings))
        given = {"levels": None} | settings
        if given.keys() != {"model", "samples", "levels"}:
            raise InputError(
                f"a SNAC codec has the settings {', '.join(settings) or 'none'}; give name, "
                "samples and perhaps levels and revision, as of SnacTokenizer.from_pretrained"
            )
        return cls.from_config(given)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the configuration and the weights, because weight normalization cannot be."""
        return _rebuild, (self.get_config(), self.state_dict())


@default_torch_modes()
def _rebuild(config: dict[str, Any], weights: dict[str, Tensor]) -> SnacTokenizer:
    """Build a tokenizer from its configuration and weights."""
    tokenizer = SnacTokenizer.from_config(config)
    tokenizer.load_state_dict(weights)
    return tokenizer.eval()


class _FixedNoise(nn.Module):
    """A block that adds noise in proportion to its input, the same at every call.

    Args:
        linear: linear map of the input, [B, C, T] to [B, C, T]; its name is that of SNAC's weights.
    """

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """Add the noise: [B, C, T] -> [B, C, T]."""
        noise = torch.randn(x.shape[2], generator=generator_for("snac noise"))
        return x + noise.to(x) * self.linear(x)


def _fix_noise(model: nn.Module) -> None:
    """Replace the blocks of a codec that add random noise."""
    from snac.layers import NoiseBlock

    for parent in [*model.modules()]:
        for name, part in [*parent.named_children()]:
            if isinstance(part, NoiseBlock):
                setattr(parent, name, _FixedNoise(part.linear))
