"""Metrics of reconstructed samples besides the squared error, by kind of sample.

Audio: signal-to-noise ratio, its scale-invariant form (Le Roux et al. 2019, arXiv 1811.02508), the
multi-resolution STFT distance, the distance of log-mel spectra, and STOI (Taal et al. 2011), an
estimate of speech intelligibility.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anytime_ar.bundle.curve import QualityPoint
from anytime_ar.errors import InputError
from anytime_ar.media.spectra import log_mel_spectrogram, multi_resolution_stft_distance
from anytime_ar.plugins import errors_of_user

SILENCE_ENERGY = 1e-9
"""Energy of a clip, as a sum of squares, below which it counts as silent."""
MIN_STOI_SECONDS = 1.0
"""Length in seconds to which shorter clips are repeated: STOI compares segments of 0.384 s without
pauses."""


@dataclass(frozen=True)
class MetricFormat:
    """How tables and plots show a metric."""

    name: str
    """Name of the metric in curve.json."""
    title: str
    """Name and unit of the metric in tables and plots."""
    digits: int
    """Number of decimal places in tables."""


@dataclass(frozen=True)
class Metric(MetricFormat):
    """A metric of each decoded sample against the original."""

    compute: Callable[[Tensor, Tensor, int], Tensor]
    """Maps (original, decoded, sample rate in Hz) to the metric: two float32 [B, *sample_shape] on
    the CPU to float [B]."""


def snr_db(x: Tensor, decoded: Tensor, _: int = 0) -> Tensor:
    """Return the signal-to-noise ratio in dB, float64 [B].

    The ratio is 10 log10 of the energy of the original over the energy of the difference.

    Args:
        x: original clips [B, C, T].
        decoded: decoded clips [B, C, T].
    """
    return _ratio_db(x.double(), decoded.double() - x.double())


def si_sdr_db(x: Tensor, decoded: Tensor, _: int = 0) -> Tensor:
    """Return the SI-SDR in dB, float64 [B]: the ratio at the best scale of the original.

    Both signals are taken without their mean.

    Args:
        x: original clips [B, C, T].
        decoded: decoded clips [B, C, T].
    """
    x, decoded = (wave.double() - wave.double().mean(-1, keepdim=True) for wave in (x, decoded))
    energy = x.square().sum((1, 2), keepdim=True).clamp_min(SILENCE_ENERGY)
    scale = (x * decoded).sum((1, 2), keepdim=True) / energy
    return _ratio_db(scale * x, decoded - scale * x)


def _ratio_db(signal: Tensor, noise: Tensor) -> Tensor:
    """Return the ratio of two energies in dB, finite also for silence: float64 [B].

    Args:
        signal: float64 [B, C, T].
        noise: float64 [B, C, T].
    """
    energies = (
        part.flatten(1).square().sum(1).clamp_min(SILENCE_ENERGY) for part in (signal, noise)
    )
    return 10 * (next(energies) / next(energies)).log10()


def log_mel_distance(x: Tensor, decoded: Tensor, sample_rate: int) -> Tensor:
    """Return the mean absolute difference of the log-mel spectra in dB, [B].

    Args:
        x: original clips [B, C, T].
        decoded: decoded clips [B, C, T].
        sample_rate: sampling rate in Hz.
    """
    difference = log_mel_spectrogram(x, sample_rate) - log_mel_spectrogram(decoded, sample_rate)
    return difference.abs().mean((1, 2)).unflatten(0, x.shape[:2]).mean(1)


def stoi_score(x: Tensor, decoded: Tensor, sample_rate: int) -> Tensor:
    """Return the STOI, in about 0..1: float [B], means over channels. Silence scores 0.

    Args:
        x: original clips [B, C, T].
        decoded: decoded clips [B, C, T].
        sample_rate: sampling rate in Hz.
    """
    from pystoi import stoi

    times = math.ceil(MIN_STOI_SECONDS * sample_rate / x.shape[-1])
    found = []
    for original, other in zip(
        x.flatten(0, 1).double().numpy(), decoded.flatten(0, 1).double().numpy(), strict=True
    ):
        if np.square(original).sum() < SILENCE_ENERGY:
            found.append(0.0)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # too few segments: STOI returns 1e-5
            found.append(float(stoi(np.tile(original, times), np.tile(other, times), sample_rate)))
    return torch.tensor(found).unflatten(0, x.shape[:2]).mean(1)


_SNR = Metric("snr", "SNR dB", 2, snr_db)
METRICS_BY_NDIM: dict[int, tuple[Metric, ...]] = {
    2: (
        _SNR,
        Metric("si_sdr", "SI-SDR dB", 2, si_sdr_db),
        Metric("stft", "STFT", 3, lambda x, made, _: multi_resolution_stft_distance(x, made)),
        Metric("mel", "mel dB", 2, log_mel_distance),
        Metric("stoi", "STOI", 3, stoi_score),
    )
}
"""Metrics by the number of dimensions of a sample; images have none yet. Series, which have no
sample rate, have the signal-to-noise ratio alone."""
ALL_METRICS = tuple(measure for some in METRICS_BY_NDIM.values() for measure in some)
"""Metrics of all kinds of samples, in the order of tables."""


def metrics_in(points: Sequence[QualityPoint]) -> list[MetricFormat]:
    """Return the metrics that points of a curve have, those of plug-ins last, by their names."""
    found = dict.fromkeys(name for point in points for name in point.metrics)
    known = [metric for metric in ALL_METRICS if metric.name in found]
    names = {metric.name for metric in known}
    return [*known, *(MetricFormat(name, name, 4) for name in found if name not in names)]


def metrics_for(sample_shape: tuple[int, ...], sample_rate: int | None) -> tuple[Metric, ...]:
    """Return the metrics of samples of a shape; those of audio need a sample rate in Hz."""
    if len(sample_shape) == 2 and sample_rate is None:
        return (_SNR,)
    return METRICS_BY_NDIM.get(len(sample_shape), ())


class MetricAccumulator:
    """Running means over decoded samples: squared error, metrics and label accuracy.

    Args:
        sample_shape: shape of one sample.
        sample_rate: sampling rate of audio in Hz; None for images and series.
        logits: maps a batch of samples to logits of the classifier; None: no label accuracy.
        metrics: further metrics, beside those of `metrics_for`.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        sample_rate: int | None,
        logits: Callable[[Tensor], Tensor] | None,
        metrics: Sequence[Metric] = (),
    ) -> None:
        """Start with sums of zero."""
        self._metrics = (*metrics_for(sample_shape, sample_rate), *metrics)
        self._rate, self._logits = sample_rate or 0, logits
        self._squared_error, self._count, self._values = 0.0, 0, 0
        self._sums = dict.fromkeys((metric.name for metric in self._metrics), 0.0)
        self._num_correct, self._num_labelled = 0, 0

    def add(self, decoded: Tensor, x: Tensor, labels: Tensor | None) -> None:
        """Add the metrics of a batch to the sums.

        Args:
            decoded: decoded samples float32 [B, *sample_shape].
            x: original samples float32 [B, *sample_shape].
            labels: int64 [B]; None: unknown.
        """
        self._squared_error += float((decoded.double() - x.double()).square().sum())
        self._values += x.numel()
        self._count += len(x)
        for metric in self._metrics:
            with errors_of_user("metric", metric.name):
                values = torch.as_tensor(metric.compute(x, decoded, self._rate))
            if values.shape != (len(x),):
                raise InputError(
                    f"the metric {metric.name} returns {list(values.shape)} for {len(x)} samples; "
                    f"return [{len(x)}], a value for each"
                )
            self._sums[metric.name] += float(values.double().sum())
        if self._logits is not None and labels is not None:
            self._num_correct += int((self._logits(decoded).argmax(1).cpu() == labels).sum())
            self._num_labelled += len(labels)

    def merge(self, other: MetricAccumulator) -> None:
        """Add the sums of another accumulator."""
        self._squared_error += other._squared_error
        self._values += other._values
        self._count += other._count
        for name, total in other._sums.items():
            self._sums[name] += total
        self._num_correct += other._num_correct
        self._num_labelled += other._num_labelled

    def __getstate__(self) -> dict[str, object]:
        """Return the sums, which processes exchange, without functions."""
        return self.__dict__ | {"_logits": None, "_metrics": ()}

    @property
    def mse(self) -> float:
        """Mean squared error over every value of every sample."""
        return self._squared_error / self._values

    @property
    def metrics(self) -> dict[str, float]:
        """Means over samples of the metrics, by name."""
        return {name: total / self._count for name, total in self._sums.items()}

    @property
    def label_accuracy(self) -> float | None:
        """Share of the samples whose label the classifier predicts; None if not measured."""
        return self._num_correct / self._num_labelled if self._num_labelled else None
