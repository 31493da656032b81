"""Samples as bytes: what goes over the wire."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from anytime_ar.arrays import check_claim
from anytime_ar.data.batch import to_float
from anytime_ar.data.pixels import cropped_square, decode, to_array, with_channels
from anytime_ar.data.sample_files import picture_files, sound_files
from anytime_ar.data.sounds import decode_sound, peak_gain
from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel

Format = Literal["png", "webp", "wav", "npy"]
MEDIA_TYPES: dict[str, str] = {
    "png": "image/png",
    "webp": "image/webp",
    "wav": "audio/wav",
    "npy": "application/x-npy",
}
_MOST_PIXELS = 2**24
"""Of a picture that a client sends."""
_NPY_MAGIC = b"\x93NUMPY"


class Media(ABC):
    """Turns samples of one model into bytes and back."""

    formats: tuple[str, ...]
    """That can be asked for, the usual one first."""

    def __init__(self, model: AnytimeModel) -> None:
        self.sample_shape = model.sample_shape

    def check(self, wanted: str | None) -> str:
        """The format to answer in.

        Raises:
            InputError: samples of this model cannot be written in it.
        """
        if wanted is None:
            return self.formats[0]
        if wanted not in self.formats:
            raise InputError(
                f"format {wanted!r} does not suit samples of shape {[*self.sample_shape]}; "
                f"use {', '.join(self.formats)}"
            )
        return wanted

    def write(self, samples: Tensor, kind: str) -> list[bytes]:
        """Samples, float32 [n, *sample_shape] in [-1, 1], each as a file."""
        if kind != "npy":
            return self._write(samples.cpu(), kind)
        return [_npy(sample) for sample in samples.cpu().numpy()]

    def read(self, content: bytes, origin: str) -> Tensor:
        """A file as one sample, float32 [*sample_shape] in [-1, 1].

        Raises:
            InputError: it does not decode, or does not fit.
        """
        return (
            self._read_array(content, origin)
            if content.startswith(_NPY_MAGIC)
            else self._read(content, origin)
        )

    def _read_array(self, content: bytes, origin: str) -> Tensor:
        try:
            check_claim(io.BytesIO(content), len(content))
            array = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError, OSError, MemoryError) as error:
            raise InputError(f"{origin}: is no .npy file that can be read") from error
        if array.shape != self.sample_shape or array.dtype != np.float32:
            raise InputError(
                f"{origin}: is {array.dtype} {list(array.shape)}; "
                f"pass float32 {[*self.sample_shape]}"
            )
        if not np.isfinite(array).all() or np.abs(array).max() > 1:
            raise InputError(f"{origin}: has numbers outside [-1, 1]; scale them")
        return torch.from_numpy(array)

    @abstractmethod
    def _write(self, samples: Tensor, kind: str) -> list[bytes]: ...

    @abstractmethod
    def _read(self, content: bytes, origin: str) -> Tensor: ...


class Pictures(Media):
    """Images, cut to their centred square and resized when they come in."""

    formats = ("png", "webp", "npy")

    def _write(self, samples: Tensor, kind: str) -> list[bytes]:
        options = {"lossless": True} if kind == "webp" else {}
        return picture_files(samples, kind, **options)

    def _read(self, content: bytes, origin: str) -> Tensor:
        try:
            with Image.open(io.BytesIO(content)) as header:
                width, height = header.size
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{origin}: is no picture; send png, webp, jpeg or npy") from error
        if width * height > _MOST_PIXELS:
            raise InputError(
                f"{origin}: {width} x {height} are too many pixels; send at most {_MOST_PIXELS}"
            )
        channels, size = self.sample_shape[0], self.sample_shape[1]
        image = with_channels(decode(content, origin), channels, origin)
        return to_float(
            torch.from_numpy(to_array(cropped_square(image, None, size, origin)).copy())
        )


class Sounds(Media):
    """Recordings of one channel, at most as long as a sample; silence follows shorter ones."""

    formats = ("wav", "npy")

    def __init__(self, model: AnytimeModel) -> None:
        super().__init__(model)
        assert model.sample_rate is not None
        self._rate = model.sample_rate
        sound = model.bundle.card.training.get("data", {}).get("sound", {})
        self._to_peak = sound.get("loudness") == "peak"

    def _write(self, samples: Tensor, kind: str) -> list[bytes]:
        return sound_files(samples, self._rate, kind)

    def _read(self, content: bytes, origin: str) -> Tensor:
        wave, rate = decode_sound(content, origin)
        if rate != self._rate:
            raise InputError(f"{origin}: has {rate} Hz; resample it to {self._rate} Hz")
        length = self.sample_shape[1]
        if len(wave) > length:
            raise InputError(
                f"{origin}: has {len(wave)} samples; cut it to at most {length}, or encode it in "
                "windows with `anytime encode`"
            )
        gain = peak_gain(float(np.abs(wave).max())) if self._to_peak else 1.0
        return torch.nn.functional.pad(
            torch.from_numpy(wave * np.float32(gain)), (0, length - len(wave))
        )[None]


def _npy(sample: npt.NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, sample)
    return file.getvalue()


_KINDS: dict[int, type[Media]] = {3: Pictures, 2: Sounds}
"""By the number of dimensions of a sample."""


def media_of(model: AnytimeModel) -> Media:
    """What reads and writes the samples of a model."""
    return _KINDS[len(model.sample_shape)](model)
