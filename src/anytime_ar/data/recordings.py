"""Sound files of any length, read and written block by block, so that memory does not grow with
them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile  # type: ignore[import-untyped]
import soxr  # type: ignore[import-untyped]
import torch
from torch import Tensor

from anytime_ar.data.sounds import BLOCK_FRAMES, Waveform, decode_audio_blocks, to_int16
from anytime_ar.data.suffixes import AUDIO_FORMATS
from anytime_ar.errors import DataError, InputError
from anytime_ar.files import write_atomically


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
