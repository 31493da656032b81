"""Spectra of sounds, as losses, metrics, features and pictures need them.

Magnitudes are those of a full-scale sine: 1.0 at its frequency, whatever the window. What lies
below `RMS_FLOOR` counts as silence, so that the noise of a quiet passage does not weigh as much as what
can be heard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

AMPLITUDE_FLOOR = 1e-3
"""-60 dB of a full-scale sine."""
STFT_WINDOWS = (64, 128, 256, 512, 1024)
"""Window lengths, in samples, of the multi-resolution distance."""


def stft_magnitudes(x: Tensor, window: int) -> Tensor:
    """Magnitudes over time, with a Hann window moved by a quarter of its length.

    Args:
        x: float32 [B, 1, T].
        window: its length in samples.

    Returns:
        float32 [B, window / 2 + 1, frames].
    """
    hann = torch.hann_window(window, device=x.device)
    spectrum = torch.stft(
        x.float().flatten(0, 1),
        window,
        hop_length=window // 4,
        window=hann * (2 / hann.sum()),
        pad_mode="constant",  # any length, also one shorter than the window
        return_complex=True,
    )
    # The square root has no slope at zero that a gradient could use.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()


def amplitude_to_db(magnitude: Tensor) -> Tensor:
    """20 log10, at least that of `RMS_FLOOR`."""
    return 20 * magnitude.clamp_min(AMPLITUDE_FLOOR).log10()


def multi_resolution_stft_distance(
    x: Tensor, other: Tensor, resolutions: Sequence[int] = STFT_WINDOWS
) -> Tensor:
    """Multi-resolution STFT distance (Yamamoto et al. 2020, arXiv 1910.11480) of each sound.

    At each resolution, the relative error of the magnitudes (spectral convergence) plus the mean
    difference of their logarithms, in nepers; the mean over resolutions.

    Args:
        x: float32 [B, 1, T], the reference.
        other: float32 [B, 1, T].
        resolutions: window lengths in samples.

    Returns:
        float32 [B].
    """
    total = torch.zeros(len(x), device=x.device)
    for window in resolutions:
        real, made = stft_magnitudes(x, window), stft_magnitudes(other, window)
        difference = torch.linalg.vector_norm(real - made, dim=(1, 2))
        convergence = difference / torch.linalg.vector_norm(real, dim=(1, 2)).clamp_min(
            AMPLITUDE_FLOOR
        )
        # Not cut off at the floor: what is missing altogether would have no gradient to come back.
        logarithmic = torch.hypot(made, made.new_tensor(AMPLITUDE_FLOOR)).log()
        logarithmic = logarithmic - torch.hypot(real, real.new_tensor(AMPLITUDE_FLOOR)).log()
        total = total + convergence + logarithmic.abs().mean(dim=(1, 2))
    return total / len(resolutions)


def log_mel_spectrogram(
    x: Tensor, sample_rate: int, *, bands: int = 40, window_s: float = 0.032
) -> Tensor:
    """Loudness by mel band and time, in dB.

    Args:
        x: float32 [B, 1, T].
        sample_rate: of x, in Hz.
        bands: number of mel bands, from 0 Hz to half the rate.
        window_s: length of the window in seconds; rounded to a power of two in samples.

    Returns:
        float32 [B, bands, frames], from -60 dB (see `RMS_FLOOR`) up.
    """
    window = 2 ** round(math.log2(window_s * sample_rate))
    filters = _mel_filterbank(sample_rate, window, bands).to(x.device)
    power = filters @ stft_magnitudes(x, window).square()  # [B, bands, frames]
    return amplitude_to_db(power.sqrt())


@lru_cache
def _mel_filterbank(sample_rate: int, window: int, bands: int) -> Tensor:
    """Triangles on the mel scale of O'Shaughnessy, each of height 1: float32 [bands, window/2 + 1].

    A band that is narrower than a bin gets the share of the nearest bins.
    """

    def to_mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    mels = torch.linspace(0, to_mel(sample_rate / 2), bands + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)  # Hz
    width = sample_rate / window
    bins = torch.arange(window // 2 + 1) * width  # Hz
    middle = edges[1:-1, None]
    rising = (bins - edges[:-2, None]) / (middle - edges[:-2, None]).clamp_min(width)
    falling = (edges[2:, None] - bins) / (edges[2:, None] - middle).clamp_min(width)
    return torch.minimum(rising, falling).clamp(0, 1)
