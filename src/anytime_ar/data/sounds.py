"""From an encoded sound to int16 [1, T]: mono, at one rate, of one length."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile  # type: ignore[import-untyped]
import soxr  # type: ignore[import-untyped]

from anytime_ar.data.config import AudioConfig
from anytime_ar.data.rows import BrokenSampleError, MediaContent, Row
from anytime_ar.data.sound_header import PatchedFile, check_header
from anytime_ar.errors import DataError

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


class AudioRowDecoder:
    """Reads rows to clips of one rate and one length.

    Longer clips are cut, shorter ones end in silence. Without `sample_rate` all have to have that
    of the first.
    """

    def __init__(self, config: AudioConfig) -> None:
        self._config = config
        self.sample_rate = config.sample_rate
        """In Hz; None until the first clip tells it."""
        self._first = ""

    def __call__(self, row: Row) -> npt.NDArray[np.int16]:
        """int16 [1, T] of one row: its first `seconds`.

        Raises:
            DataError: it does not decode, or has another rate than the first.
        """
        return self._decode(row, self._config.seconds)

    def decode_for_training(self, row: Row) -> npt.NDArray[np.int16]:
        """int16 [1, S] of one row, S >= T: what clips of length T are cut from; see `__call__`."""
        seconds = self._config.seconds
        return self._decode(row, max(seconds, self._config.longest_seconds or seconds))

    def _decode(self, row: Row, seconds: float) -> npt.NDArray[np.int16]:
        wave, rate = decode_audio(row.content, row.origin)
        if self.sample_rate is None:
            self.sample_rate, self._first = rate, row.origin
        if rate != self.sample_rate:
            if self._config.sample_rate is None:
                raise DataError(
                    f"{row.origin}: {rate} Hz, but {self._first} has {self.sample_rate}; "
                    "set data.sound.sample_rate"
                )
            wave = soxr.resample(wave, rate, self.sample_rate)
        loudest = float(np.abs(wave).max())
        if self._config.loudness == "peak":
            wave = wave * peak_gain(loudest)
        clip = np.zeros((1, self._length(seconds, self.sample_rate)), dtype=np.int16)
        kept = wave[: clip.shape[1]]
        clip[0, : len(kept)] = to_int16(kept)
        return clip

    def _length(self, seconds: float, sample_rate: int) -> int:
        """In samples: a multiple of `length_multiple`, at least as long as asked for."""
        multiple = self._config.length_multiple
        return -(-round(seconds * sample_rate) // multiple) * multiple
