"""Conversion between samples and the files that clients send and receive."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.media.audio import decode_audio_blocks, encode_audio, peak_gain
from anytime_ar.media.image import decode_image, encode_images, to_float
from anytime_ar.runtime.size_limits import check_npy_size
from anytime_ar.sampling import AnytimeModel

SampleFormat = Literal["png", "webp", "wav", "npy"]
MEDIA_TYPES: dict[str, str] = {
    "png": "image/png",
    "webp": "image/webp",
    "wav": "audio/wav",
    "npy": "application/x-npy",
}
"""Media type of each sample format."""
_ACCEPTED_IMAGE_FORMATS = ("PNG", "WEBP", "JPEG", "GIF", "BMP")
"""Pillow's names of the accepted image formats. Pillow runs other programs to read some formats."""
_MAX_PIXELS = 2**24
"""Maximum pixels in an image that a client sends."""
_NPY_MAGIC = b"\x93NUMPY"


class MediaProcessor(ABC):
    """A converter between samples of one model and files.

    Args:
        model: Model whose samples are converted.
    """

    formats: tuple[str, ...]
    """Formats that clients can request, the default first."""

    def __init__(self, model: AnytimeModel) -> None:
        """Take the shape of samples from the model."""
        self.sample_shape = model.sample_shape

    def resolve_format(self, format: str | None) -> str:
        """Return the format of the samples in a response.

        Args:
            format: Requested format; None for the default of the model.

        Raises:
            InputError: Samples of this model cannot be written in the requested format.
        """
        if format is None:
            return self.formats[0]
        if format not in self.formats:
            raise InputError(
                f"format {format!r} does not suit samples of shape {[*self.sample_shape]}; "
                f"use {', '.join(self.formats)}"
            )
        return format

    def to_bytes(self, samples: Tensor, format: str) -> list[bytes]:
        """Convert each sample to the bytes of a file.

        Args:
            samples: float32 [n, *sample_shape] in [-1, 1].
            format: One of `formats`.

        Returns:
            The contents of n files.
        """
        if format != "npy":
            return self._to_bytes(samples.cpu(), format)
        return [_to_npy(sample) for sample in samples.cpu().numpy()]

    def from_bytes(self, content: bytes, origin: str) -> Tensor:
        """Read one sample from the bytes of a file.

        Args:
            content: Content of a file in any accepted format.
            origin: Name of the file for error messages.

        Returns:
            The sample, float32 [*sample_shape] in [-1, 1].

        Raises:
            InputError: The file cannot be decoded, or does not fit the model.
        """
        return (
            self._from_npy(content, origin)
            if content.startswith(_NPY_MAGIC)
            else self._from_bytes(content, origin)
        )

    def _from_npy(self, content: bytes, origin: str) -> Tensor:
        with _decode_errors_as_input_error(
            f"{origin}: cannot be read as a .npy file; send one with float32 in [-1, 1]"
        ):
            check_npy_size(io.BytesIO(content), len(content))
            array = np.load(io.BytesIO(content), allow_pickle=False)
        if array.shape != self.sample_shape or array.dtype != np.float32:
            raise InputError(
                f"{origin}: is {array.dtype} {list(array.shape)}; "
                f"pass float32 {[*self.sample_shape]}"
            )
        if not np.isfinite(array).all() or np.abs(array).max() > 1:
            raise InputError(f"{origin}: has values outside [-1, 1]; scale them")
        return torch.from_numpy(array)

    @abstractmethod
    def _to_bytes(self, samples: Tensor, format: str) -> list[bytes]: ...

    @abstractmethod
    def _from_bytes(self, content: bytes, origin: str) -> Tensor: ...


class ImageProcessor(MediaProcessor):
    """A converter for images.

    Images of clients are cropped to the centred square and resized to the size of samples.
    """

    formats = ("png", "webp", "npy")

    def _to_bytes(self, samples: Tensor, format: str) -> list[bytes]:
        options = {"lossless": True} if format == "webp" else {}
        return encode_images(samples, format, **options)

    def _from_bytes(self, content: bytes, origin: str) -> Tensor:
        channels, size = self.sample_shape[0], self.sample_shape[1]
        with _decode_errors_as_input_error(
            f"{origin}: cannot be read as an image; send png, webp, jpeg or npy"
        ):
            _check_pixel_count(content, origin)
            pixels = decode_image(content, origin, channels=channels, size=size)
        return to_float(torch.from_numpy(pixels.copy()))


class AudioProcessor(MediaProcessor):
    """A converter for audio of one channel.

    Audio of clients is at most as long as a sample. Shorter audio is padded with zeros at its end.

    Args:
        model: Model with a sample rate.
    """

    formats = ("wav", "npy")

    def __init__(self, model: AnytimeModel) -> None:
        """Take the sample rate and the peak normalisation from the model."""
        super().__init__(model)
        assert model.sample_rate is not None
        self._sample_rate = model.sample_rate
        self._peak_normalize = model.bundle.card.data.normalize == "peak"

    def _to_bytes(self, samples: Tensor, format: str) -> list[bytes]:
        return encode_audio(samples, self._sample_rate, format)

    def _from_bytes(self, content: bytes, origin: str) -> Tensor:
        length, blocks, count = self.sample_shape[1], [], 0
        with _decode_errors_as_input_error(f"{origin}: cannot be read as audio; send wav or npy"):
            for block, rate in decode_audio_blocks(content, origin):
                if rate != self._sample_rate:
                    raise InputError(
                        f"{origin}: has {rate} Hz; resample it to {self._sample_rate} Hz"
                    )
                blocks.append(block)
                count += len(block)
                if count > length:  # a small compressed file can hold hours of audio
                    raise InputError(
                        f"{origin}: has more than {length} samples; cut it to that, or encode it "
                        "in windows with `anytime encode`"
                    )
        wave = np.concatenate(blocks)
        gain = peak_gain(float(np.abs(wave).max())) if self._peak_normalize else 1.0
        return torch.nn.functional.pad(
            torch.from_numpy(wave * np.float32(gain)), (0, length - len(wave))
        )[None]


def _check_pixel_count(content: bytes, origin: str) -> None:
    """Check the number of pixels in an image file before it is decoded.

    Raises:
        InputError: The image has more than `_MAX_PIXELS` pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_ACCEPTED_IMAGE_FORMATS) as header:
            width, height = header.size
    except Image.DecompressionBombError as error:  # Pillow's own limit
        raise InputError(f"{origin}: has too many pixels; send at most {_MAX_PIXELS}") from error
    if width * height > _MAX_PIXELS:
        raise InputError(
            f"{origin}: {width} x {height} are too many pixels; send at most {_MAX_PIXELS}"
        )


@contextmanager
def _decode_errors_as_input_error(message: str) -> Iterator[None]:
    """Raise an `InputError` in place of any error of a decoder.

    The decoders do not document which errors a broken or oversized file raises.

    Args:
        message: Text of the error.

    Raises:
        InputError: The block raised an error. An `InputError` of the block passes unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(message) from error


def _to_npy(sample: npt.NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, sample)
    return file.getvalue()


_PROCESSORS: dict[int, type[MediaProcessor]] = {3: ImageProcessor, 2: AudioProcessor}
"""Class of the converter, by the number of dimensions of a sample."""


def processor_for(model: AnytimeModel) -> MediaProcessor:
    """Return the converter for the samples of a model."""
    return _PROCESSORS[len(model.sample_shape)](model)
