"""The interface of tokenizers: ours and any other."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor, nn

from anytime_ar.codes import Vocabulary, as_vocabulary, vocabulary_sizes
from anytime_ar.errors import InputError
from anytime_ar.plugins import ModelPart
from anytime_ar.runtime.tensors import check_weights, device_of
from anytime_ar.runtime.torch_modes import default_torch_modes


class Tokenizer(ModelPart, nn.Module, abc.ABC):
    """Base class of maps between samples and codes, of which every prefix decodes.

    `OrderedAutoencoder` is one. A subclass for another tokenizer sets the attributes and computes
    `encode` and `decode`.
    """

    code_length: int
    """L, the number of codes of a sample."""
    vocabulary: Vocabulary
    """V, the number of values of a code: one number for all positions, or one for each of the L."""
    sample_shape: tuple[int, ...]
    """Shape of one sample: (C, H, W) of images, (C, T) of audio."""

    @property
    def time_segments(self) -> int | None:
        """Return the number S of equal parts of time whose codes follow each other at each level.

        Codes are in level-major order then: level 1 of all parts, level 2 of all parts, and so on.
        None: codes stand for whole samples, or in another order.
        """
        return None

    @abc.abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Encode samples: float32 [B, *sample_shape] in [-1, 1] -> int64 [B, L] in 0..V-1."""

    @abc.abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Decode a prefix of codes: int64 [B, k], 1 <= k <= L -> float32 [B, *sample_shape]."""

    def inference_state(self) -> dict[str, Tensor]:
        """Return the weights that a bundle stores."""
        return self.state_dict()


def require_tokenizer(value: Any) -> None:
    """Check that an object is a tokenizer.

    Raises:
        InputError: it is another object, such as a function, a class or the name of a model.
    """
    if not isinstance(value, Tokenizer):
        what = value.__name__ if isinstance(value, type) else f"a {type(value).__name__}"
        raise InputError(
            f"the tokenizer is {what}; pass an object of a class derived from anytime_ar.Tokenizer,"
            " such as CodecTokenizer.from_pretrained(...) or load(...).autoencoder"
        )


@default_torch_modes()
def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Encode silence and decode prefixes of it, to find a faulty tokenizer before it is used.

    Args:
        tokenizer: in evaluation mode.

    Raises:
        InputError: the vocabulary is none, codes have a wrong shape or type or are out of range, or
            the decoded samples of some prefix have a wrong shape or type or are not finite; the
            message names which.
    """
    name, length = type(tokenizer).__name__, tokenizer.code_length
    check_weights(tokenizer, "tokenizer")
    x = torch.zeros(2, *tokenizer.sample_shape, device=device_of(tokenizer))
    try:
        codes = tokenizer.encode(x)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{name}.encode does not encode float32 {list(x.shape)} ({error}); return int64 "
            f"[2, {length}]"
        ) from error
    if codes.shape != (2, length) or codes.dtype != torch.int64:
        raise InputError(
            f"{name}.encode returns {codes.dtype} {list(codes.shape)} for 2 samples; return int64 "
            f"[2, {length}], the code length"
        )
    sizes = vocabulary_sizes(as_vocabulary(tokenizer.vocabulary, length), length)
    for position, size in enumerate(sizes):
        low, high = int(codes[:, position].min()), int(codes[:, position].max())
        if not 0 <= low <= high < size:
            raise InputError(
                f"{name}.encode returns codes in {low}..{high} at position {position}; return "
                f"codes in 0..{size - 1}, or set another vocabulary"
            )
    for k in sorted({1, (length + 1) // 2, length}):
        try:
            x = tokenizer.decode(codes[:, :k])
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{name}.decode does not decode {k} of {length} codes ({error}); every prefix has "
                "to decode, for example with zeros in place of the codes that are missing"
            ) from error
        expected = (2, *tokenizer.sample_shape)
        if x.shape != expected or x.dtype != torch.float32 or not x.isfinite().all():
            right = x.shape == expected and x.dtype == torch.float32
            problem = "values that are not finite" if right else list(x.shape)
            raise InputError(
                f"{name}.decode returns {x.dtype} {problem} for {k} of {length} codes of 2 samples;"
                f" return finite float32 {list(expected)} for every prefix"
            )
