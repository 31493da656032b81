"""Compute spectra of audio for losses, metrics, feature extractors and plots.

Magnitudes are relative to a full-scale sine, which has 1.0 at its frequency whatever the window.
Magnitudes below `AMPLITUDE_FLOOR` count as silence, so that noise in a quiet passage does not weigh
as much as audible content.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

AMPLITUDE_FLOOR = 1e-3
"""Magnitude that counts as silence: -60 dB relative to a full-scale sine."""
STFT_WINDOWS = (64, 128, 256, 512, 1024)
"""Window lengths of the multi-resolution distance, in samples."""


def stft_magnitudes(x: Tensor, window: int) -> Tensor:
    """Return STFT magnitudes over time, with a Hann window and a hop of a quarter of its length.

    Args:
        x: float32 [B, C, T].
        window: window length in samples.

    Returns:
        float32 [B * C, window / 2 + 1, frames].
    """
    hann = torch.hann_window(window, device=x.device)
    spectrum = torch.stft(
        x.float().flatten(0, 1),
        window,
        hop_length=window // 4,
        window=hann * (2 / hann.sum()),
        pad_mode="constant",  # allows clips shorter than the window
        return_complex=True,
    )
    # The square root has no finite gradient at zero.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()


def amplitude_to_db(magnitude: Tensor) -> Tensor:
    """Convert magnitudes to dB (20 log10), clamped to `AMPLITUDE_FLOOR` from below."""
    return 20 * magnitude.clamp_min(AMPLITUDE_FLOOR).log10()


def multi_resolution_stft_distance(
    x: Tensor, other: Tensor, resolutions: Sequence[int] = STFT_WINDOWS
) -> Tensor:
    """Return the multi-resolution STFT distance of each clip from a reference.

    The distance is that of Yamamoto et al. 2020, arXiv 1910.11480: at each resolution, the relative
    error of the magnitudes (spectral convergence), plus the mean difference of their logarithms in
    nepers; averaged over resolutions.

    Args:
        x: float32 [B, C, T], the reference.
        other: float32 [B, C, T], the clips to compare.
        resolutions: window lengths in samples.

    Returns:
        float32 [B], means over channels.
    """
    total = torch.zeros(x.shape[0] * x.shape[1], device=x.device)
    for window in resolutions:
        real, made = stft_magnitudes(x, window), stft_magnitudes(other, window)
        difference = torch.linalg.vector_norm(real - made, dim=(1, 2))
        convergence = difference / torch.linalg.vector_norm(real, dim=(1, 2)).clamp_min(
            AMPLITUDE_FLOOR
        )
        # A clamp at the floor would give missing content no gradient; the hypotenuse gives one.
        logarithmic = torch.hypot(made, made.new_tensor(AMPLITUDE_FLOOR)).log()
        logarithmic = logarithmic - torch.hypot(real, real.new_tensor(AMPLITUDE_FLOOR)).log()
        total = total + convergence + logarithmic.abs().mean(dim=(1, 2))
    return total.unflatten(0, x.shape[:2]).mean(1) / len(resolutions)


def log_mel_spectrogram(
    x: Tensor, sample_rate: int, *, bands: int = 40, window_s: float = 0.032
) -> Tensor:
    """Return the level in dB by mel band and time.

    Args:
        x: float32 [B, C, T].
        sample_rate: sample rate of `x`, in Hz.
        bands: number of mel bands, from 0 Hz to half the sample rate.
        window_s: window length in seconds, rounded to a power of two in samples.

    Returns:
        float32 [B * C, bands, frames], at least -60 dB (see `AMPLITUDE_FLOOR`).
    """
    window = 2 ** round(math.log2(window_s * sample_rate))
    filters = _mel_filterbank(sample_rate, window, bands).to(x.device)
    power = filters @ stft_magnitudes(x, window).square()  # [B * C, bands, frames]
    return amplitude_to_db(power.sqrt())


@lru_cache
def _mel_filterbank(sample_rate: int, window: int, bands: int) -> Tensor:
    """Return triangular filters of height 1 on O'Shaughnessy's mel scale, [bands, window/2 + 1].

    A band narrower than a bin has the share of the nearest bins.

    Args:
        sample_rate: sample rate in Hz.
        window: window length in samples.
        bands: number of mel bands.

    Returns:
        float32 [bands, window / 2 + 1].
    """

    def to_mel(hertz: float) -> float:
        """Convert a frequency in Hz to mel."""
        return 2595 * math.log10(1 + hertz / 700)

    mels = torch.linspace(0, to_mel(sample_rate / 2), bands + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)  # Hz
    width = sample_rate / window
    bins = torch.arange(window // 2 + 1) * width  # Hz
    middle = edges[1:-1, None]
    rising = (bins - edges[:-2, None]) / (middle - edges[:-2, None]).clamp_min(width)
    falling = (edges[2:, None] - bins) / (edges[2:, None] - middle).clamp_min(width)
    return torch.minimum(rising, falling).clamp(0, 1)
