"""From an encoded sound to int16 [1, T]: mono, at one rate, of one length."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile  # type: ignore[import-untyped]
import soxr  # type: ignore[import-untyped]
import torch
from torch import Tensor

from anytime_ar.errors import BrokenSampleError, DataError, InputError
from anytime_ar.media.audio_header import PatchedFile, check_header
from anytime_ar.media.formats import AUDIO_FORMATS, MediaContent
from anytime_ar.runtime.files import write_atomically

BLOCK_FRAMES = 1 << 16
"""Samples of each channel that are decoded at once."""
_UNKNOWN_NUM_FRAMES = 2**36 - 1
"""Samples that no file has: FLAC has 36 bits for them, and 0 where a program could not count."""
_MP3_TAG_SEARCH_BYTES = 1 << 16
"""Bytes at the start of an MP3 among which a tag may tell its length."""
_TARGET_PEAK = 0.95
_SILENCE_PEAK = 1e-4
"""A clip that is nowhere louder is left as it is."""

Waveform = npt.NDArray[np.float32]


def decode_audio_blocks(encoded: MediaContent, origin: str) -> Iterator[tuple[Waveform, int]]:
    """Decode a sound block by block; several channels become their mean.

    Yields:
        float32 [n] with 1 <= n <= `BLOCK_FRAMES`, and its rate in Hz, the same each time.

    Raises:
        BrokenSampleError: it is not a sound, is cut short or empty, or holds numbers that are none.
    """
    assert isinstance(encoded, bytes | Path)
    if encoded == b"":
        raise BrokenSampleError(f"{origin}: is empty, and does not decode as a sound; fill it in")
    count = 0
    try:
        if isinstance(encoded, Path) and not encoded.is_file():
            raise BrokenSampleError(f"{origin}: is not there, or leads nowhere; restore it")
        with encoded.open("rb") if isinstance(encoded, Path) else io.BytesIO(encoded) as content:
            problem, corrections = check_header(content)
            if problem == "too long":
                raise BrokenSampleError(
                    f"{origin}: holds more than 4 GiB, which its header cannot count; store it as "
                    "FLAC, RF64 or W64"
                )
            is_estimate = _is_length_estimated(content)
            source = PatchedFile(content, corrections)
            with _ForwardOnlySoundFile(source) as file:
                promised = 0 if is_estimate or file.frames >= _UNKNOWN_NUM_FRAMES else file.frames
                while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                    wave = block.mean(axis=1)  # [n]
                    _check_finite(wave, count, origin)
                    yield wave, file.samplerate
                    count += len(wave)
            if source.failure is not None:
                raise source.failure
    except (OSError, soundfile.LibsndfileError) as error:
        raise BrokenSampleError(
            f"{origin}: does not decode as a sound ({_error_text(error)}); repair or replace it"
        ) from error
    if problem == "cut short" or count < promised:
        raise BrokenSampleError(
            f"{origin}: is cut short, after {count} samples; copy or record it again"
        )
    if count == 0:
        raise BrokenSampleError(f"{origin}: holds no sound at all; copy or record it again")


class _ForwardOnlySoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound that is only read forward: libsndfile cannot seek in one of unknown length."""

    def seekable(self) -> bool:
        """See `soundfile.SoundFile`."""
        return False


def _is_length_estimated(content: BinaryIO) -> bool:
    """Whether the length that libsndfile gives is a guess: of an MP3 without a tag."""
    content.seek(0)
    head = content.read(_MP3_TAG_SEARCH_BYTES)
    content.seek(0)
    is_mp3 = head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")
    return is_mp3 and not any(tag in head for tag in (b"Xing", b"Info", b"VBRI"))


def decode_audio(encoded: MediaContent, origin: str) -> tuple[Waveform, int]:
    """Decode a sound completely; see `decode_audio_blocks`.

    Returns:
        float32 [n] with n >= 1, and its rate in Hz.

    Raises:
        DataError: as `decode_audio_blocks`.
    """
    blocks, rates = zip(*decode_audio_blocks(encoded, origin), strict=True)
    return np.concatenate(blocks), rates[0]


def _error_text(error: Exception) -> str:
    """What is wrong, without the name that the library has for the source."""
    told = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return told.rstrip(".") or type(error).__name__


def _check_finite(wave: Waveform, start: int, origin: str) -> None:
    bad = np.flatnonzero(~np.isfinite(wave))
    if len(bad) > 0:
        raise BrokenSampleError(
            f"{origin}: sample {start + bad[0]} is {wave[bad[0]]}; repair or replace the file"
        )


def peak_gain(peak: float) -> float:
    """The factor that brings a sound whose largest magnitude is `peak` to the peak of training
    clips; 1.0 for silence."""
    return _TARGET_PEAK / peak if peak > _SILENCE_PEAK else 1.0


def to_int16(wave: Waveform) -> npt.NDArray[np.int16]:
    """float in [-1, 1] to the nearest int16; what is beyond is clipped."""
    return np.clip(np.round(wave * 32768.0), -32768, 32767).astype(np.int16)


def encode_audio(clips: Tensor, sample_rate: int, format: str = "wav") -> list[bytes]:
    """Encode mono sounds with 16 bits.

    Args:
        clips: float [n, 1, T] in [-1, 1].
        sample_rate: in Hz.
        format: a format of libsndfile.
    """
    files = []
    for wave in to_int16(clips[:, 0].cpu().numpy()):
        file = io.BytesIO()
        soundfile.write(file, wave, sample_rate, format=format.upper(), subtype="PCM_16")
        files.append(file.getvalue())
    return files


class LengthAndPeak(NamedTuple):
    """How long and how loud a recording is."""

    num_samples: int
    """At the rate asked for, at least 1."""
    peak: float
    """The largest magnitude."""


@dataclass(frozen=True)
class AudioFile:
    """A sound file as mono at one rate, whatever it holds."""

    path: Path
    sample_rate: int
    """In Hz; another one is resampled."""

    def blocks(self) -> Iterator[Tensor]:
        """Read it from the start: float32 [n] with n >= 1, one after the other.

        Raises:
            DataError: the file is missing, is not a sound, is cut short or empty, or holds numbers
                that are none.
        """
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file; pass the path of a sound")
        count = 0
        for wave in _resample_blocks(
            decode_audio_blocks(self.path, str(self.path)), self.sample_rate
        ):
            if len(wave) > 0:  # the resampler holds a few back
                yield torch.from_numpy(wave)
            count += len(wave)
        if count == 0:
            raise DataError(
                f"{self.path}: is shorter than one sample at {self.sample_rate} Hz; pass a longer "
                "sound"
            )

    def measure(self) -> LengthAndPeak:
        """Read it once for its length and peak.

        Raises:
            DataError: as `blocks`.
        """
        samples, peak = 0, 0.0
        for block in self.blocks():
            samples += len(block)
            peak = max(peak, float(block.abs().max()))
        return LengthAndPeak(samples, peak)


def _resample_blocks(
    blocks: Iterator[tuple[Waveform, int]], sample_rate: int
) -> Iterator[Waveform]:
    resampler = None
    for wave, rate in blocks:
        if rate == sample_rate:
            yield wave
            continue
        resampler = resampler or soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
        yield resampler.resample_chunk(wave)
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def write_audio(path: str | Path, blocks: Iterable[Tensor], sample_rate: int) -> None:
    """Write a mono sound; the format follows the suffix. An existing file is replaced at the end.

    Args:
        path: `*.wav`, `*.flac` or `*.ogg`.
        blocks: float [n] in [-1, 1], any n, one after the other; values beyond are clipped.
        sample_rate: in Hz.

    Raises:
        InputError: unknown suffix, a block of another shape, a rate that the format does not have,
            or the path cannot be written.
    """
    path = Path(path)
    kind = AUDIO_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"{path}: cannot write a sound with suffix {path.suffix!r}; "
            f"use one of {', '.join(AUDIO_FORMATS)}"
        )

    def write(file: BinaryIO) -> None:
        try:
            sound = soundfile.SoundFile(file, "w", sample_rate, channels=1, format=kind)
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path}: {kind} has no {sample_rate} Hz; use .wav") from error
        with sound:
            for block in blocks:
                if block.ndim != 1:
                    raise InputError(
                        f"{path}: cannot write a block of shape {tuple(block.shape)}; pass [n]"
                    )
                for part in block.detach().float().cpu().split(BLOCK_FRAMES):
                    sound.write(to_int16(part.numpy()))

    write_atomically(path, write)
