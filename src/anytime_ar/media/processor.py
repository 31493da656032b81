"""Convert between files and the samples of one model.

Files are read as samples: images are cropped to a central rectangle and resized, audio is
normalized as the training clips were and padded with zeros at its end, and series are scaled from
their own units.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from anytime_ar.codes import WindowedAudio
from anytime_ar.errors import DataError, InputError
from anytime_ar.media.audio import (
    AudioFile,
    MeasuredClip,
    decode_audio_blocks,
    encode_audio,
    peak_gain,
    read_clip,
    write_audio,
)
from anytime_ar.media.formats import AUDIO_FORMATS, WRITABLE_IMAGE_SUFFIXES
from anytime_ar.media.image import (
    central_rectangle,
    decode_image,
    encode_images,
    read_image,
    to_float,
    write_image,
)
from anytime_ar.media.series import (
    ChannelRanges,
    scale_channels,
    series_from_csv,
    series_to_csv,
    unscale_channels,
)
from anytime_ar.media.sheets import as_images
from anytime_ar.media.windows import (
    OverlappingWindows,
    SampleCodec,
    decode_windows,
    encode_windows,
)
from anytime_ar.runtime.files import write_bytes
from anytime_ar.runtime.progress import ProgressCallback
from anytime_ar.runtime.size_limits import check_npy_size

_ACCEPTED_IMAGE_FORMATS = ("PNG", "WEBP", "JPEG", "GIF", "BMP")
"""Pillow's names of the image formats that are accepted from strangers. Pillow runs other programs
to read some formats."""
_MAX_PIXELS = 2**24
"""Maximum pixels in an image from a stranger."""
_NPY_MAGIC = b"\x93NUMPY"


class MediaProcessor(ABC):
    """A converter between files and the samples of one model.

    Args:
        sample_shape: shape of one sample: (C, H, W) of images, (C, T) of audio and series.
    """

    modality: ClassVar[Literal["image", "audio", "series"]]
    """Kind of samples that the processor reads and writes."""
    noun: ClassVar[str]
    """What messages call several samples."""
    formats: tuple[str, ...]
    """Formats of a sample as the bytes of a file, the default first."""
    suffixes: tuple[str, ...]
    """Suffixes of files for samples, the default first; .npy holds all samples as one array."""

    def __init__(self, sample_shape: tuple[int, ...]) -> None:
        """Store the shape of samples."""
        self.sample_shape = sample_shape

    @abstractmethod
    def read(self, path: Path) -> Tensor:
        """Read a file as one sample.

        Args:
            path: file in any format that Pillow or libsndfile decodes.

        Returns:
            float32 [*sample_shape] in [-1, 1].

        Raises:
            DataError: the file is missing or cannot be decoded.
            InputError: audio is longer than a sample, or a series has another shape.
        """

    @abstractmethod
    def write(self, path: Path, sample: Tensor) -> None:
        """Write one sample in the format of the suffix, one of `suffixes` that is no image's.

        Args:
            path: file to write.
            sample: float32 [*sample_shape] in [-1, 1].

        Raises:
            InputError: the path is not writable.
        """

    def to_units(self, samples: Tensor) -> Tensor:
        """Return samples in the units of their files: series in their own, others as they are.

        Args:
            samples: float32 [n, *sample_shape] in [-1, 1].
        """
        return samples

    def from_units(self, values: Tensor) -> Tensor:
        """Return samples of values in the units of their files, the inverse of `to_units`.

        Args:
            values: float32 [*sample_shape].

        Raises:
            ValueError: images or audio are not in [-1, 1].
        """
        if not values.abs().max() <= 1:
            raise ValueError("has values outside [-1, 1]; scale them")
        return values

    def from_bytes(self, content: bytes, origin: str) -> Tensor:
        """Read one sample from the bytes of a file that a stranger sends, within limits.

        Args:
            content: content of a file in any accepted format.
            origin: name of the file, for messages.

        Returns:
            float32 [*sample_shape] in [-1, 1].

        Raises:
            InputError: the file cannot be decoded, or does not fit the model.
        """
        return (
            self._from_npy(content, origin)
            if content.startswith(_NPY_MAGIC)
            else self._from_bytes(content, origin)
        )

    def read_array(self, path: Path) -> Tensor:
        """Read samples from an array in a .npy file.

        Args:
            path: file with float32 [*sample_shape] or [n, *sample_shape] in [-1, 1].

        Returns:
            float32 [n, *sample_shape].

        Raises:
            DataError: the file cannot be read.
            InputError: the array is another one.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; pass a file that can be read") from error
        return self._from_npy(content, str(path), several=True).view(-1, *self.sample_shape)

    def to_bytes(self, samples: Tensor, format: str) -> list[bytes]:
        """Convert each sample to the bytes of a file.

        Args:
            samples: float32 [n, *sample_shape] in [-1, 1].
            format: one of `formats`.

        Returns:
            The contents of n files.
        """
        if format != "npy":
            return self._to_bytes(samples.cpu(), format)
        return [_to_npy(sample) for sample in self.to_units(samples.cpu()).numpy()]

    def _from_npy(self, content: bytes, origin: str, *, several: bool = False) -> Tensor:
        with _decode_errors_as_input_error(
            f"{origin}: cannot be read as a .npy file; send one with float32 in [-1, 1]"
        ):
            check_npy_size(io.BytesIO(content), len(content))
            array = np.load(io.BytesIO(content), allow_pickle=False)
        shape = array.shape[1:] if several and array.ndim > len(self.sample_shape) else array.shape
        if shape != self.sample_shape or array.dtype != np.float32 or not array.size:
            raise InputError(
                f"{origin}: is {array.dtype} {list(array.shape)}; "
                f"pass float32 {[*self.sample_shape]}"
            )
        try:
            return self.from_units(torch.from_numpy(array))
        except ValueError as error:
            raise InputError(f"{origin}: {error}") from error

    @abstractmethod
    def _to_bytes(self, samples: Tensor, format: str) -> list[bytes]: ...

    @abstractmethod
    def _from_bytes(self, content: bytes, origin: str) -> Tensor: ...


class ImageProcessor(MediaProcessor):
    """A converter for images, which are cropped to a central rectangle and resized."""

    modality = "image"
    noun = "images"
    formats: tuple[str, ...] = ("png", "webp", "npy")
    suffixes: tuple[str, ...] = (*WRITABLE_IMAGE_SUFFIXES, ".npy")

    def __init__(self, sample_shape: tuple[int, ...]) -> None:
        """Store the shape; samples of other than 1, 3 or 4 channels are arrays, and no images."""
        super().__init__(sample_shape)
        if sample_shape[0] not in (1, 3, 4):
            self.formats, self.suffixes = ("npy",), (".npy",)

    def read(self, path: Path) -> Tensor:
        """Read an image file; see `MediaProcessor.read`."""
        channels, height, width = self.sample_shape
        if self.formats == ("npy",):
            raise InputError(
                f"{path}: samples of {channels} channels are no images; pass .npy files"
            )
        return read_image(path, channels=channels, size=(height, width))[0]

    def write(self, path: Path, sample: Tensor) -> None:
        """Write an image; see `MediaProcessor.write`."""
        write_image(path, sample)

    def describe_fit(self, path: Path) -> str | None:
        """Return how `read` changes the size of an image it has read; None if it does not."""
        with Image.open(path) as header:
            width, height = header.size
        _, rows, columns = self.sample_shape
        crop_height, crop_width = central_rectangle(height, width, None, (rows, columns))
        cropped = (crop_height, crop_width) != (height, width)
        crop = f"cropped to the central {crop_width} x {crop_height}" if cropped else ""
        resized = (crop_height, crop_width) != (rows, columns)
        resize = f"resized to {columns} x {rows}" if resized else ""
        change = " and ".join(filter(None, (crop, resize)))
        return f"{path}: {width} x {height}, {change}" if change else None

    def _to_bytes(self, samples: Tensor, format: str) -> list[bytes]:
        options = {"lossless": True, "exact": True} if format == "webp" else {}
        return encode_images(samples, format, **options)

    def _from_bytes(self, content: bytes, origin: str) -> Tensor:
        channels, height, width = self.sample_shape
        if self.formats == ("npy",):
            raise InputError(f"{origin}: has no npy array of {channels} channels; send npy")
        with _decode_errors_as_input_error(
            f"{origin}: cannot be read as an image; send png, webp, jpeg or npy"
        ):
            _check_pixel_count(content, origin)
            pixels = decode_image(content, origin, channels=channels, size=(height, width))
        return to_float(torch.from_numpy(pixels.copy()))


class AudioProcessor(MediaProcessor):
    """A converter for audio, which is resampled, normalized and padded with silence.

    Recordings of any length are encoded and decoded in overlapping windows.

    Args:
        sample_shape: shape (C, T) of one sample; mono audio is the mean of a file's channels.
        sample_rate: sample rate in Hz.
        normalize: scaling of audio before it is encoded: to the peak of training clips, or none.
    """

    modality = "audio"
    noun = "clips"
    formats = ("wav", "npy")
    suffixes = (*AUDIO_FORMATS, *WRITABLE_IMAGE_SUFFIXES, ".npy")

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        sample_rate: int,
        normalize: Literal["peak", "none"] = "none",
    ) -> None:
        """Store shape, sample rate and normalization."""
        super().__init__(sample_shape)
        self.sample_rate, self._normalize = sample_rate, normalize

    def read(self, path: Path) -> Tensor:
        """Read a clip, which may be shorter than a sample; see `MediaProcessor.read`."""
        length, recording = self.sample_shape[1], self._open(path)
        clip = read_clip((block.numpy() for block in recording.blocks()), length)
        if clip.num_samples > length:
            raise InputError(
                f"{path}: has {clip.num_samples} samples at {self.sample_rate} Hz, and of several "
                f"clips each may have {length}; encode it alone"
            )
        return self._to_sample(clip)

    def write(self, path: Path, sample: Tensor) -> None:
        """Write a clip; see `MediaProcessor.write`."""
        channels = len(sample)
        write_audio(path, [sample if channels > 1 else sample[0]], self.sample_rate, channels)

    def encode_recording(
        self, codec: SampleCodec, path: Path, progress: ProgressCallback
    ) -> tuple[Tensor, WindowedAudio]:
        """Encode a recording of any length in overlapping windows, which are read twice.

        Only the codes grow with the recording.

        Args:
            codec: model of these samples.
            path: file in any format that libsndfile decodes.
            progress: called with what is done, the total, and the unit.

        Returns:
            Codes int64 [W, L] on the CPU, and what decoding them needs.

        Raises:
            DataError: the file is missing or cannot be decoded.
        """
        recording, windows = self._open(path), OverlappingWindows.for_codec(codec)
        samples, peak = recording.measure()
        gain = peak_gain(peak) if self._normalize == "peak" else 1.0
        codes: list[Tensor] = []
        done, total = 0, windows.count(samples)
        for part in encode_windows(codec, windows, (block * gain for block in recording.blocks())):
            codes.append(part.cpu())
            done += len(part)
            progress(done, total, "windows")
        audio = WindowedAudio(
            samples=samples,
            sample_rate=self.sample_rate,
            window=windows.length,
            overlap=windows.overlap,
            gain=gain,
        )
        return torch.cat(codes), audio

    @staticmethod
    def decode_recording(
        codec: SampleCodec, codes: Tensor, audio: WindowedAudio, progress: ProgressCallback
    ) -> Iterator[Tensor]:
        """Decode any prefix of the codes of a recording, at its original level.

        Args:
            codec: model that encoded it.
            codes: int64 [W, k].
            audio: what `encode_recording` returned.
            progress: called with what is done, the total, and the unit.

        Returns:
            An iterator of waveforms float32 [n], or [C, n] of several channels.

        Raises:
            InputError: there are more or fewer windows than the recording has, or the codes do not
                fit.
        """
        windows = OverlappingWindows(audio.window, audio.overlap)
        blocks = decode_windows(codec, windows, codes, audio.samples)
        return _at_original_level(blocks, audio, progress)

    def _to_bytes(self, samples: Tensor, format: str) -> list[bytes]:
        return encode_audio(samples, self.sample_rate, format)

    def _from_bytes(self, content: bytes, origin: str) -> Tensor:
        with _decode_errors_as_input_error(f"{origin}: cannot be read as audio; send wav or npy"):
            clip = read_clip(self._limited_blocks(content, origin), self.sample_shape[1])
        return self._to_sample(clip)

    def _open(self, path: Path) -> AudioFile:
        return AudioFile(path, self.sample_rate, self.sample_shape[0])

    def _to_sample(self, clip: MeasuredClip) -> Tensor:
        return torch.from_numpy(np.atleast_2d(clip.normalized(self._normalize)))

    def _limited_blocks(self, content: bytes, origin: str) -> Iterator[npt.NDArray[np.float32]]:
        """Yield blocks of audio that fits into one sample without resampling.

        Raises:
            InputError: it has another sample rate, or is longer.
        """
        (channels, length), count = self.sample_shape, 0
        for block, rate in decode_audio_blocks(content, origin, channels):
            if rate != self.sample_rate:
                raise InputError(f"{origin}: has {rate} Hz; resample it to {self.sample_rate} Hz")
            count += block.shape[-1]
            if count > length:  # a small compressed file can hold hours of audio
                raise InputError(
                    f"{origin}: has more than {length} samples; cut it to that, or encode it in "
                    "windows with `anytime encode`"
                )
            yield block


class SeriesProcessor(MediaProcessor):
    """A converter for series, whose files have the units of the training data.

    Args:
        sample_shape: shape (C, T) of one sample.
        channel_ranges: values of each channel that are -1 and 1 in samples; None: -1 and 1.
        channel_names: names of the channels, for tables; None: `channel0` and so on.
    """

    modality = "series"
    noun = "series"
    formats = ("npy", "csv", "png")
    suffixes = (".npy", ".csv", *WRITABLE_IMAGE_SUFFIXES)

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        channel_ranges: ChannelRanges | None = None,
        channel_names: tuple[str, ...] | None = None,
    ) -> None:
        """Store shape, ranges and names."""
        super().__init__(sample_shape)
        channels = range(sample_shape[0])
        self._ranges = channel_ranges or tuple((-1.0, 1.0) for _ in channels)
        self._names = channel_names or tuple(f"channel{channel}" for channel in channels)

    def read(self, path: Path) -> Tensor:
        """Read a series from a .npy or .csv file; see `MediaProcessor.read`."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); pass the path of a .npy or .csv file"
            ) from error
        return self.from_bytes(content, str(path))

    def write(self, path: Path, sample: Tensor) -> None:
        """Write a series; see `MediaProcessor.write`."""
        write_bytes(path, self.to_bytes(sample[None], path.suffix[1:].lower())[0])

    def to_units(self, samples: Tensor) -> Tensor:
        """Return series in their own units; see `MediaProcessor.to_units`."""
        return unscale_channels(samples, self._ranges)

    def from_units(self, values: Tensor) -> Tensor:
        """Return scaled series; values beyond the ranges are beyond [-1, 1]."""
        if not values.isfinite().all():
            raise ValueError("has values that are not finite; fill gaps before")
        return scale_channels(values, self._ranges)

    def _to_bytes(self, samples: Tensor, format: str) -> list[bytes]:
        if format == "csv":
            return [series_to_csv(series, self._names) for series in self.to_units(samples).numpy()]
        return encode_images(as_images(samples), format)

    def _from_bytes(self, content: bytes, origin: str) -> Tensor:
        with _decode_errors_as_input_error(
            f"{origin}: cannot be read as a series; send npy, or csv with a column for each channel"
        ):
            series = series_from_csv(content)
        return self._from_npy(_to_npy(series), origin)


def _at_original_level(
    blocks: Iterator[Tensor], audio: WindowedAudio, progress: ProgressCallback
) -> Iterator[Tensor]:
    """Yield waveforms at the level of the recording before it was encoded."""
    done = 0
    for block in blocks:
        yield block / audio.gain
        done += block.shape[-1]
        progress(done, audio.samples, "samples")


def processor_for(
    sample_shape: tuple[int, ...],
    sample_rate: int | None = None,
    normalize: Literal["peak", "none"] | None = None,
    channel_ranges: ChannelRanges | None = None,
    channel_names: tuple[str, ...] | None = None,
) -> MediaProcessor:
    """Return the converter for the samples that a data card describes.

    Args:
        sample_shape: shape of one sample: (C, H, W) of images, (C, T) of audio and series.
        sample_rate: sample rate of audio in Hz; None for images and series.
        normalize: scaling of audio before it is encoded; None for images and series.
        channel_ranges: values of each channel of series that are -1 and 1 in samples.
        channel_names: names of the channels of series.
    """
    if len(sample_shape) == 3:
        return ImageProcessor(sample_shape)
    if sample_rate is None:
        return SeriesProcessor(sample_shape, channel_ranges, channel_names)
    return AudioProcessor(sample_shape, sample_rate, normalize or "none")


def _check_pixel_count(content: bytes, origin: str) -> None:
    """Check the number of pixels in an image file before it is decoded.

    Raises:
        InputError: the image has more than `_MAX_PIXELS` pixels.
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
        message: text of the error.

    Raises:
        InputError: the block raised an error; an `InputError` of the block passes unchanged.
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
