"""Decode audio files to waveforms of one or more channels, and encode waveforms.

Time is the last axis: mono waveforms are [n], those of C channels [C, n].
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anytime_ar.errors import BrokenSampleError, DataError, InputError, require_extras
from anytime_ar.legacy import warn_renamed
from anytime_ar.media.audio_header import PatchedFile, check_header, has_mp3_tag, name_unread_format
from anytime_ar.media.formats import AUDIO_FORMATS, MediaContent
from anytime_ar.runtime.files import write_atomically

if TYPE_CHECKING:
    import soundfile

BLOCK_FRAMES = 1 << 16
"""Most samples of each channel that are decoded at once."""
_MAX_BLOCK_VALUES = 1 << 22
"""Most samples of all channels together that are decoded at once."""
MIN_SAMPLE_RATE = 100
MAX_SAMPLE_RATE = 1_000_000
"""Range of sample rates in Hz that are read. A damaged header may declare any number, and the
resampled length is proportional to it."""
_UNKNOWN_NUM_FRAMES = 2**36 - 1
"""Sample count that means unknown: FLAC has 36 bits for it, and 0 where a writer could not
count."""
_EMPTY = "holds no sound at all; copy or record it again"
_PROBLEMS = {
    "too long": (
        "holds more than 4 GiB, which its header cannot count; store it as FLAC, RF64 or W64"
    ),
    "several sounds": "holds several sounds, expected one; store each in a file of its own",
    "more data": (
        "is longer than its header declares, by data that may be sound; repair the header, for "
        "example with sox --ignore-length"
    ),
}
"""Texts about problems of headers for which a file is refused before it is decoded."""
_TARGET_PEAK = 0.95
"""Peak of a normalized clip, of a full scale of 1."""
_SILENCE_PEAK = 1e-4
"""Peak at or below which a clip counts as silent, and is not normalized."""

Waveform = npt.NDArray[np.float32]
"""A waveform, float32 [n], or [C, n] of C > 1 channels."""


@cache
def require_audio() -> None:
    """Check that the extra `audio` is installed, to read, write or draw audio.

    Raises:
        MissingExtraError: it is not installed.
    """
    require_extras("audio", "audio")


def decode_audio_blocks(
    encoded: MediaContent, origin: str, channels: int = 1
) -> Iterator[tuple[Waveform, int]]:
    """Decode audio block by block.

    Args:
        encoded: the file's content, or its path.
        origin: name of the sample, for messages.
        channels: C; 1 averages the channels of the file. A mono file has the same in all of C.

    Yields:
        A waveform float32 [n], or [C, n], with 1 <= n <= `BLOCK_FRAMES`, and its sample rate in Hz,
        the same each time.

    Raises:
        BrokenSampleError: it is not audio, is truncated or empty, holds several sounds, declares a
            sample rate out of range, has another number of channels, or holds NaN or infinity.
        MissingExtraError: the extra `audio` is not installed.
    """
    require_audio()
    import soundfile

    assert isinstance(encoded, bytes | Path)
    count = 0
    try:
        if isinstance(encoded, Path) and not encoded.is_file():
            raise BrokenSampleError(f"{origin}: is not there, or leads nowhere; restore it")
        with encoded.open("rb") if isinstance(encoded, Path) else io.BytesIO(encoded) as content:
            check = check_header(content)
            if check.problem in _PROBLEMS:
                raise BrokenSampleError(f"{origin}: {_PROBLEMS[check.problem]}")
            source = PatchedFile(content, check)
            with _open_sound(source, origin) as file:
                file.seekable = lambda: False  # libsndfile cannot seek in one of unknown length
                _check_rate(file.samplerate, origin)
                if channels > 1 and file.channels not in (1, channels):
                    raise BrokenSampleError(
                        f"{origin}: has {file.channels} channels, expected {channels} or 1; "
                        "convert it"
                    )
                declared = _declared_num_frames(file, source)
                most = max(1, min(BLOCK_FRAMES, _MAX_BLOCK_VALUES // file.channels))
                # Tags may follow the last frame of FLAC, where libsndfile would search for another.
                end = declared if file.format == "FLAC" else None
                while end is None or count < end:
                    wanted = most if end is None else min(most, end - count)
                    block = file.read(wanted, dtype="float32", always_2d=True)
                    if not len(block):
                        break
                    if channels == 1:
                        wave = block.mean(axis=1)  # [n]
                    else:
                        wave = np.ascontiguousarray(
                            np.broadcast_to(block.T, (channels, len(block)))
                        )
                    _check_finite(wave, count, origin)
                    yield wave, file.samplerate
                    count += len(block)
            if source.failure is not None:
                raise source.failure
    except (OSError, soundfile.LibsndfileError) as error:
        raise BrokenSampleError(
            f"{origin}: does not decode as a sound ({_error_text(error)}); repair or replace it"
        ) from error
    if check.problem == "cut short" or count < (declared or 0):
        raise BrokenSampleError(
            f"{origin}: is cut short, after {count} samples; copy or record it again"
        )
    if count == 0:
        raise BrokenSampleError(f"{origin}: {_EMPTY}")


def _open_sound(source: PatchedFile, origin: str) -> soundfile.SoundFile:
    """Open an audio file.

    Raises:
        BrokenSampleError: it is empty, or of a known format that is not read.
        LibsndfileError: it is no audio file.
    """
    import soundfile

    if source.size == 0:
        raise BrokenSampleError(f"{origin}: {_EMPTY}")
    try:
        file = soundfile.SoundFile(source)
    except soundfile.LibsndfileError:
        if name := name_unread_format(source.head()):
            raise BrokenSampleError(
                f"{origin}: is {name}, which is not read; convert it to WAV or FLAC"
            ) from None
        raise
    if file.format == "XI":  # libsndfile assumes 44,100 Hz, whatever it was
        raise BrokenSampleError(f"{origin}: is XI, which stores no sample rate; convert it to WAV")
    return file


def _declared_num_frames(file: soundfile.SoundFile, source: PatchedFile) -> int | None:
    """Return the declared length in samples; None if the file does not declare it.

    Of an MP3 without a tag, libsndfile only estimates the length.
    """
    if not 0 < file.frames < _UNKNOWN_NUM_FRAMES:
        return None
    if file.subtype.startswith("MPEG_LAYER") and not has_mp3_tag(source.head()):
        return None
    frames: int = file.frames
    return frames


def _check_rate(rate: int, origin: str) -> None:
    """Check that a declared sample rate is plausible.

    Raises:
        BrokenSampleError: it is out of range.
    """
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise BrokenSampleError(
            f"{origin}: its header declares {rate} Hz, expected {MIN_SAMPLE_RATE} to "
            f"{MAX_SAMPLE_RATE}; repair or replace it"
        )


def _error_text(error: Exception) -> str:
    """Return an error's text without the name that libsndfile has for the source."""
    text = str(getattr(error, "error_string", error))
    return text.rstrip(".") or type(error).__name__


def _check_finite(wave: Waveform, start: int, origin: str) -> None:
    """Check that a block of a waveform has no NaN or infinity.

    Args:
        wave: float32 [n] or [C, n].
        start: position of the block in the audio, in samples.
        origin: name of the sample, for messages.

    Raises:
        BrokenSampleError: a sample is not finite; names the first one.
    """
    bad = np.argwhere(~np.isfinite(wave))
    if len(bad) > 0:
        raise BrokenSampleError(
            f"{origin}: sample {start + bad[0, -1]} is {wave[tuple(bad[0])]}; repair or replace "
            "the file"
        )


def peak_gain(peak: float) -> float:
    """Return the gain that normalizes audio to the peak of training clips.

    Args:
        peak: largest magnitude of the audio.

    Returns:
        1.0 for silence, which is not normalized.
    """
    return _TARGET_PEAK / peak if peak > _SILENCE_PEAK else 1.0


def to_int16(wave: Waveform) -> npt.NDArray[np.int16]:
    """Round a float waveform in [-1, 1] to int16, and clip values beyond the range."""
    return np.clip(np.round(wave * 32768.0), -32768, 32767).astype(np.int16)


def encode_audio(clips: Tensor, sample_rate: int, format: str = "wav") -> list[bytes]:
    """Encode clips with 16 bits.

    Args:
        clips: float [n, C, T] in [-1, 1].
        sample_rate: sample rate in Hz.
        format: a format of libsndfile.

    Returns:
        The content of one file for each clip.

    Raises:
        MissingExtraError: the extra `audio` is not installed.
    """
    require_audio()
    import soundfile

    files = []
    for wave in to_int16(clips.cpu().numpy()):
        file = io.BytesIO()
        soundfile.write(file, wave.T, sample_rate, format=format.upper(), subtype="PCM_16")
        files.append(file.getvalue())
    return files


class LengthAndPeak(NamedTuple):
    """Length and peak of an audio file."""

    num_samples: int
    """Length in samples at the requested rate, at least 1."""
    peak: float
    """Largest magnitude of the waveform."""

    @property
    def samples(self) -> int:
        """Length in samples, by its name of version 0.1."""
        warn_renamed("LengthAndPeak.samples", "LengthAndPeak.num_samples")
        return self.num_samples


class MeasuredClip(NamedTuple):
    """The beginning of a recording, with the length and the peak of all of it."""

    wave: Waveform
    """The first samples, padded with silence, float32 [T] or [C, T]."""
    num_samples: int
    """Length of the recording, in samples."""
    peak: float
    """Largest magnitude of the recording, in any channel."""

    def normalized(self, normalize: Literal["peak", "none"]) -> Waveform:
        """Return the waveform, scaled so that the whole recording has the peak of training clips.

        Args:
            normalize: `none` returns it as it is.
        """
        return self.wave * (peak_gain(self.peak) if normalize == "peak" else 1.0)


def read_clip(blocks: Iterable[Waveform], length: int) -> MeasuredClip:
    """Join the beginning of a recording, of which only one block is in memory beside it.

    Args:
        blocks: consecutive waveforms, all of which are read.
        length: length T of the clip, in samples.
    """
    wave = np.zeros(length, dtype=np.float32)
    count, peak = 0, 0.0
    for block in blocks:
        peak = max(peak, float(np.abs(block).max(initial=0.0)))
        if block.ndim != wave.ndim:
            wave = np.zeros((len(block), length), dtype=np.float32)
        kept = block[..., : max(0, length - count)]
        wave[..., count : count + kept.shape[-1]] = kept
        count += block.shape[-1]
    return MeasuredClip(wave, count, peak)


@dataclass(frozen=True)
class AudioFile:
    """An audio file, read at one sample rate."""

    path: Path
    """Path of the audio file."""
    sample_rate: int
    """Sample rate in Hz to which the audio is resampled."""
    channels: int = 1
    """Number of channels; see `decode_audio_blocks`."""

    def blocks(self) -> Iterator[Tensor]:
        """Read the file from the start, block by block.

        Yields:
            A waveform float32 [n], or [C, n], with n >= 1.

        Raises:
            DataError: the file is missing, is not audio, is truncated or empty, or holds NaN or
                infinity.
        """
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "no such file"
            raise DataError(f"{self.path}: {what}; pass the path of a sound")
        count = 0
        for wave in resample_blocks(
            decode_audio_blocks(self.path, str(self.path), self.channels), self.sample_rate
        ):
            if wave.shape[-1] > 0:  # the resampler buffers a few samples
                yield torch.from_numpy(wave)
            count += wave.shape[-1]
        if count == 0:
            raise DataError(
                f"{self.path}: is shorter than one sample at {self.sample_rate} Hz; pass a longer "
                "sound"
            )

    def measure(self) -> LengthAndPeak:
        """Read the file once to measure its length and peak.

        Raises:
            DataError: as `blocks`.
        """
        _, samples, peak = read_clip((block.numpy() for block in self.blocks()), 0)
        return LengthAndPeak(samples, peak)


def resample_blocks(blocks: Iterable[tuple[Waveform, int]], sample_rate: int) -> Iterator[Waveform]:
    """Resample a waveform block by block, with the same result as in one piece.

    Args:
        blocks: waveforms with their sample rate in Hz.
        sample_rate: target sample rate in Hz.

    Yields:
        A waveform float32 [n], or [C, n], at the target rate, n >= 0. However large the target rate
        is, n is at most a few times `BLOCK_FRAMES`.
    """
    resampler = None
    end: Waveform = np.zeros(0, dtype=np.float32)
    for wave, rate in blocks:
        if rate == sample_rate:
            yield wave
            continue
        if resampler is None:
            require_audio()
            import soxr

            channels = 1 if wave.ndim == 1 else len(wave)
            resampler = soxr.ResampleStream(rate, sample_rate, channels, dtype="float32")
            end = wave[..., :0]
        step = max(1, BLOCK_FRAMES * rate // max(rate, sample_rate))
        for start in range(0, wave.shape[-1], step):
            chunk = np.ascontiguousarray(wave[..., start : start + step].T)  # [n] or [n, C]
            yield resampler.resample_chunk(chunk).T
    if resampler is not None:
        yield resampler.resample_chunk(np.ascontiguousarray(end.T), last=True).T


def write_audio(
    path: str | Path, blocks: Iterable[Tensor], sample_rate: int, channels: int = 1
) -> None:
    """Write audio in the format of the suffix, replacing an existing file at the end.

    Args:
        path: `*.wav`, `*.flac` or `*.ogg`.
        blocks: consecutive waveforms, float [n], or [C, n] of several channels, in [-1, 1], any n;
            values beyond are clipped.
        sample_rate: sample rate in Hz.
        channels: C.

    Raises:
        InputError: the suffix is unknown, a block has another shape, the format does not support
            the rate, or the path is not writable.
        MissingExtraError: the extra `audio` is not installed.
    """
    require_audio()
    import soundfile

    path = Path(path)
    kind = AUDIO_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"{path}: cannot write a sound with suffix {path.suffix!r}; "
            f"use one of {', '.join(AUDIO_FORMATS)}"
        )

    def write(file: BinaryIO) -> None:
        """Encode the blocks into the open file."""
        try:
            output = soundfile.SoundFile(file, "w", sample_rate, channels, format=kind)
        except soundfile.LibsndfileError as error:
            many = "" if channels == 1 else f" with {channels} channels"
            raise InputError(f"{path}: {kind} has no {sample_rate} Hz{many}; use .wav") from error
        with output:
            for block in blocks:
                if tuple(block.shape[:-1]) != (() if channels == 1 else (channels,)):
                    expected = "[n]" if channels == 1 else f"[{channels}, n]"
                    raise InputError(
                        f"{path}: cannot write a block of shape {tuple(block.shape)}; "
                        f"pass {expected}"
                    )
                for part in block.detach().float().cpu().split(BLOCK_FRAMES, dim=-1):
                    output.write(to_int16(part.numpy()).T)

    write_atomically(path, write)
