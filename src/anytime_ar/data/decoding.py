"""Decode stored rows to arrays of one shape, and collect the samples that do not decode.

Broken samples are collected so that one error names those of the whole set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from anytime_ar.data.config import AudioConfig, DataConfig
from anytime_ar.data.rows import Row, SplitRows, StoredArray
from anytime_ar.errors import BrokenSampleError, DataError
from anytime_ar.media.audio import decode_audio_blocks, read_clip, resample_blocks, to_int16
from anytime_ar.media.image import decode_image
from anytime_ar.media.series import ChannelRanges, scale_channels

_MAX_NAMED = 10
"""Most broken samples that a message names."""


class BrokenSampleCollector:
    """A collector of broken samples, which are refused at the end or left out.

    Args:
        skip: leave broken samples out instead of refusing them.
    """

    def __init__(self, skip: bool) -> None:
        """Start with an empty list of broken samples."""
        self._skip = skip
        self._errors: list[BrokenSampleError] = []

    def decode(self, decoder: RowDecoder, row: Row) -> StoredArray | None:
        """Decode one row; collect the error and return None if the sample is broken."""
        try:
            return decoder(row)
        except BrokenSampleError as error:
            self._errors.append(error)
            return None

    def add(self, errors: Iterable[BrokenSampleError]) -> None:
        """Collect the errors of samples that were decoded elsewhere."""
        self._errors += errors

    def raise_or_report(self, undecodable: Sequence[str] = ()) -> list[str]:
        """Refuse the broken samples, or describe those that are left out.

        Args:
            undecodable: names of the splits in which no sample decodes.

        Returns:
            One note in words, or none if nothing is left out.

        Raises:
            BrokenSampleError: there are broken samples, and they are not to be left out, or a split
                would be empty without them.
        """
        if not self._errors:
            return []
        if self._skip and undecodable:
            noun = "split" if len(undecodable) == 1 else "splits"
            raise combine_errors(
                self._errors,
                f"; without them the {noun} {' and '.join(undecodable)} would be empty: repair or "
                "replace some",
            )
        if not self._skip:
            raise combine_errors(self._errors, "; set data.skip_broken to leave such samples out")
        return [f"left out {len(self._errors)} broken samples: {combine_errors(self._errors)}"]


def combine_errors(errors: Sequence[BrokenSampleError], hint: str = "") -> BrokenSampleError:
    """Combine the errors of several samples into one, which names the first and counts the others.

    Args:
        errors: one error for each broken sample; at least one.
        hint: text to append to the message.
    """
    first = "; ".join(map(str, errors[:_MAX_NAMED]))
    more = f"; and {len(errors) - _MAX_NAMED} more" if len(errors) > _MAX_NAMED else ""
    count = f"{len(errors)} samples cannot be read: " if len(errors) > 1 else ""
    return BrokenSampleError(f"{count}{first}{more}{hint}")


class DecodableRows:
    """The rows of a split that decode, found once by reading all of them.

    Args:
        rows: the rows to filter.
        decoder: decodes a row.
        broken: collects the rows that do not decode.
    """

    def __init__(self, rows: SplitRows, decoder: RowDecoder, broken: BrokenSampleCollector) -> None:
        """Decode every row once to find those that are broken."""
        self._rows = rows
        self._indices = []
        self._left_out = set()
        for row in rows.read():
            if broken.decode(decoder, row) is None:
                self._left_out.add(row.index)
            else:
                self._indices.append(row.index)

    @property
    def size(self) -> int:
        """Return the number of rows; see `SplitRows`."""
        return len(self._indices)

    def index_of(self, position: int) -> int:
        """Return the index of the row at a position; see `SplitRows`."""
        return self._indices[position] if position < self.size else self._rows.index_of(position)

    def read(self, start: int = 0) -> Iterator[Row]:
        """Yield the rows that decode, in stored order; see `SplitRows`."""
        return (row for row in self._rows.read(start) if row.index not in self._left_out)


class RowDecoder(Protocol):
    """A decoder of rows, which checks that all have the shape of the first."""

    def __call__(self, row: Row) -> StoredArray:
        """Decode the sample of one row.

        Raises:
            BrokenSampleError: it does not decode.
            DataError: it differs from the first one.
        """
        ...


class _ReferenceShape(NamedTuple):
    """The shape of the first sample, and its name in messages."""

    shape: tuple[int, ...]
    origin: str


class ImageRowDecoder:
    """A decoder of images, which checks that all have the shape of the first."""

    def __init__(self, config: DataConfig) -> None:
        """Store the conversion; the first image sets the shape."""
        self._config = config
        self._first: _ReferenceShape | None = None

    def __call__(self, row: Row) -> StoredArray:
        """Decode one row to uint8 [C, H, W].

        Raises:
            BrokenSampleError: it does not decode.
            DataError: it differs from the first image in channels or size.
        """
        config = self._config
        assert not isinstance(row.content, Tensor | np.ndarray)
        pixels = decode_image(
            row.content,
            row.origin,
            channels=config.channels,
            center_crop=config.center_crop,
            size=config.size,
            background=config.background,
        )
        self._check_shape(pixels.shape, row.origin)
        return pixels

    def _check_shape(self, shape: tuple[int, ...], origin: str) -> None:
        """Raise an error that names both images, and the setting that helps."""
        first = self._first = self._first or _ReferenceShape(shape, origin)
        if shape == first.shape:
            return
        if len(shape) != 3 or len(first.shape) != 3:
            raise DataError(
                f"{origin}: has shape {list(shape)}, but {first.origin} has {list(first.shape)}; "
                "give all samples the same"
            )
        if shape[0] != first.shape[0]:
            raise DataError(
                f"{origin}: {shape[0]} channels, but {first.origin} has {first.shape[0]}; "
                "set data.channels to 1, 3 or 4"
            )
        raise DataError(
            f"{origin}: {shape[2]} x {shape[1]}, but {first.origin} is {first.shape[2]} x "
            f"{first.shape[1]}; set data.size"
        )


class TensorRowDecoder(ImageRowDecoder):
    """A decoder of samples that are tensors, arrays or PIL images.

    Arrays [C, T] are sounds in [-1, 1] if the configuration has a sample rate, and series in units
    of their own otherwise. Of series, the range of each channel is scaled to [-1, 1].

    Args:
        config: the conversion.
        channel_ranges: lowest and highest value of each channel of a series; None: those of the
            training split, see `measure_channels`.
    """

    def __init__(self, config: DataConfig, channel_ranges: ChannelRanges | None = None) -> None:
        """Store the conversion; the first sample sets the shape."""
        super().__init__(config)
        self.channel_ranges = channel_ranges
        """Lowest and highest value of each channel of a series; None: raw values are returned."""

    def __call__(self, row: Row) -> StoredArray:
        """Return a sample as uint8 [C, H, W], or as float32 [C, H, W] or [C, T] in about [-1, 1].

        Raises:
            BrokenSampleError: a value of a series is not finite.
            DataError: it is of another type, shape or range.
        """
        if isinstance(row.content, bytes | Path | Image.Image):
            return super().__call__(row)
        if not isinstance(row.content, Tensor | np.ndarray):
            raise DataError(
                f"{row.origin}: is a {type(row.content).__name__}; return a tensor, an array or a "
                "PIL image, or a pair of one and its label"
            )
        held = row.content
        if isinstance(held, Tensor):
            held = held.detach().cpu()
            held = held.double() if held.is_floating_point() else held
        array = np.asarray(held)
        if self.is_series(array):
            return self._decode_series(np.atleast_2d(array), row.origin)
        is_pixels = array.dtype == np.uint8 and array.ndim == 3
        if array.ndim == 3 and array.shape[0] > 4 and array.shape[2] in (1, 3, 4):
            raise DataError(
                f"{row.origin}: has shape {list(array.shape)}, with channels last; pass [C, H, W]"
            )
        is_float = array.dtype.kind == "f" and array.ndim in (2, 3)
        if not (is_pixels or is_float) or not array.size:
            raise DataError(
                f"{row.origin}: is {array.dtype} of shape {list(array.shape)}; pass images "
                "[C, H, W] as uint8, images or sounds [C, T] as floats in [-1, 1], or series [C, T]"
            )
        if not is_pixels:
            array = array.astype(np.float32)
            low, high = (float(end) for end in (array.min(), array.max()))
            if not -1 <= low <= high <= 1:
                raise DataError(
                    f"{row.origin}: has values from {low:g} to {high:g}; scale them to [-1, 1]"
                )
        self._check_shape(array.shape, row.origin)
        return array

    def is_series(self, content: object) -> bool:
        """Return whether the content of a row is a series [C, T] or [T]; uint8 is for images."""
        return (
            isinstance(content, Tensor | np.ndarray)
            and content.ndim in (1, 2)
            and not str(content.dtype).endswith("uint8")
            and self._config.audio.sample_rate is None
        )

    def measure_channels(self, rows: SplitRows) -> None:
        """Set `channel_ranges` to those of all series that decode.

        Args:
            rows: rows of the training split, which are read once.

        Raises:
            DataError: a series has another type or shape than the first.
        """
        low: npt.NDArray[Any] = np.array(np.inf)
        high: npt.NDArray[Any] = np.array(-np.inf)
        for row in rows.read():
            with suppress(BrokenSampleError):  # reported when the split is read
                series = self(row)
                low, high = np.minimum(low, series.min(1)), np.maximum(high, series.max(1))
        if low.ndim:
            self.channel_ranges = tuple(zip(low.tolist(), high.tolist(), strict=True))

    def _decode_series(self, array: npt.NDArray[Any], origin: str) -> npt.NDArray[Any]:
        """Return a series as float32 scaled to its ranges, or as float64 in its own units."""
        if array.dtype.kind not in "fiu" or not array.size:
            raise DataError(
                f"{origin}: is {array.dtype} of shape {list(array.shape)}; pass series [C, T] of "
                "numbers"
            )
        series = array.astype(np.float64)  # large offsets would lose digits in float32
        bad = np.argwhere(~np.isfinite(series))
        if len(bad):
            channel, step = bad[0]
            raise BrokenSampleError(
                f"{origin}: channel {channel} is {array[channel, step]} at step {step}; fill gaps "
                "before"
            )
        self._check_shape(series.shape, origin)
        if self.channel_ranges is None:
            return series
        if len(self.channel_ranges) != len(series):
            raise DataError(
                f"{origin}: has {len(series)} channels, and the model {len(self.channel_ranges)}; "
                "pass the same"
            )
        return scale_channels(torch.from_numpy(series), self.channel_ranges).numpy()


class AudioRowDecoder:
    """A decoder of audio to clips of one sample rate, one number of channels and one length.

    Longer clips are cropped, shorter ones are padded with silence. Without `sample_rate`, all clips
    must have the rate of the first.
    """

    def __init__(self, config: AudioConfig) -> None:
        """Store the conversion; without `sample_rate`, the first clip sets the rate."""
        self._config = config
        self.sample_rate = config.sample_rate
        """Sample rate in Hz; None until the first clip sets it."""
        self._first = ""

    def __call__(self, row: Row) -> npt.NDArray[np.int16]:
        """Decode the first `seconds` of one row to int16 [C, T].

        Raises:
            BrokenSampleError: it does not decode.
            DataError: it has another sample rate than the first.
        """
        return self._decode(row, self._config.seconds)

    def decode_for_training(self, row: Row) -> npt.NDArray[np.int16]:
        """Decode one row to int16 [C, S], S >= T, to crop training clips from; see `__call__`."""
        seconds = self._config.seconds
        return self._decode(row, max(seconds, self._config.max_stored_seconds or seconds))

    def _decode(self, row: Row, seconds: float) -> npt.NDArray[np.int16]:
        """Decode, resample and normalize one row to int16 [C, n], and crop or pad it.

        Only the crop and one block are in memory, but the peak is that of the whole recording.
        """
        assert isinstance(row.content, bytes | Path)
        blocks = decode_audio_blocks(row.content, row.origin, self._config.channels)
        first, rate = next(blocks)
        target = self.sample_rate or rate
        fits = rate == target or self._config.sample_rate is not None
        # All of a recording is decoded, so that one that is cut short is found.
        resampled = resample_blocks(chain([(first, rate)], blocks), target if fits else rate)
        clip = read_clip(resampled, self._length(seconds, target))
        if not fits:
            raise DataError(
                f"{row.origin}: {rate} Hz, but {self._first} has {self.sample_rate}; "
                "set data.audio.sample_rate"
            )
        if clip.num_samples == 0:
            raise BrokenSampleError(
                f"{row.origin}: is shorter than one sample at {target} Hz; copy or record it again"
            )
        if self.sample_rate is None:
            self.sample_rate, self._first = rate, row.origin
        return np.atleast_2d(to_int16(clip.normalized(self._config.normalize)))

    def _length(self, seconds: float, sample_rate: int) -> int:
        """Return the clip length in samples, rounded up to a multiple of `length_multiple`."""
        multiple = self._config.length_multiple
        return -(-max(1, round(seconds * sample_rate)) // multiple) * multiple
