"""From an encoded sound to int16 [1, T]: mono, at one rate, of one length."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile  # type: ignore[import-untyped]
import soxr  # type: ignore[import-untyped]

from anytime_ar.data.config import SoundConfig
from anytime_ar.data.rows import Encoded, Row
from anytime_ar.errors import DataError

_PEAK = 0.95
_SILENCE = 1e-4
"""A clip that is nowhere louder is left as it is."""

Wave = npt.NDArray[np.float32]


def decode_sound(encoded: Encoded, origin: str) -> tuple[Wave, int]:
    """Decode a sound completely; several channels become their mean.

    Returns:
        float32 [n] with n >= 1, and its rate in Hz.

    Raises:
        DataError: it is not a sound, is cut short or empty, or holds numbers that are none.
    """
    assert isinstance(encoded, bytes | Path)
    try:
        content = encoded.read_bytes() if isinstance(encoded, Path) else encoded
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            promised = file.frames
            wave = file.read(dtype="float32", always_2d=True).mean(axis=1)  # [n]
            rate = file.samplerate
    except (OSError, soundfile.LibsndfileError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{origin}: does not decode as a sound ({reason}); replace or remove it"
        ) from error
    if len(wave) < promised or _is_cut_short(content):
        raise DataError(f"{origin}: is cut short, after {len(wave)} samples; replace or remove it")
    if len(wave) == 0:
        raise DataError(f"{origin}: holds no sound at all; remove it")
    if not np.isfinite(wave).all():
        first = int(np.flatnonzero(~np.isfinite(wave))[0])
        raise DataError(f"{origin}: sample {first} is {wave[first]}; repair or remove the file")
    return wave, rate


def _is_cut_short(content: bytes) -> bool:
    """Whether a RIFF file ends before it says; libsndfile reads what there is and is content."""
    riff = content[:4] == b"RIFF" and content[8:12] == b"WAVE"
    return riff and int.from_bytes(content[4:8], "little") + 8 > len(content) + 1


def to_int16(wave: Wave) -> npt.NDArray[np.int16]:
    """float in [-1, 1] to the nearest int16; what is beyond is clipped."""
    return np.clip(np.round(wave * 32768.0), -32768, 32767).astype(np.int16)


class SoundReader:
    """Reads rows to clips of one rate and one length.

    Longer clips are cut after `seconds`, shorter ones end in silence. Without `sample_rate` all
    have to have that of the first.
    """

    def __init__(self, config: SoundConfig) -> None:
        self._config = config
        self.sample_rate = config.sample_rate
        """In Hz; None until the first clip tells it."""
        self._first = ""

    def __call__(self, row: Row) -> npt.NDArray[np.int16]:
        """int16 [1, T] of one row.

        Raises:
            DataError: it does not decode, or has another rate than the first.
        """
        wave, rate = decode_sound(row.content, row.origin)
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
        if self._config.loudness == "peak" and loudest > _SILENCE:
            wave = wave * (_PEAK / loudest)
        clip = np.zeros((1, self._length(self.sample_rate)), dtype=np.int16)
        kept = wave[: clip.shape[1]]
        clip[0, : len(kept)] = to_int16(kept)
        return clip

    def _length(self, sample_rate: int) -> int:
        """T: a multiple of `length_multiple`, at least as long as asked for."""
        multiple = self._config.length_multiple
        return -(-round(self._config.seconds * sample_rate) // multiple) * multiple
