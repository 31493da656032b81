"""Figures of decoded sounds, against their definitions and other implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from anytime_ar.evaluation.metrics.reconstruction import (
    METRICS_BY_NDIM,
    MetricAccumulator,
    log_mel_distance,
    si_sdr_db,
    snr_db,
    stoi_score,
)
from anytime_ar.media.spectra import multi_resolution_stft_distance

RATE = 8000


def sounds(n: int = 3, samples: int = 4000) -> Tensor:
    """Bursts of noise over a hum, float32 [n, 1, samples]."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(samples) / RATE
    hum = torch.sin(2 * math.pi * 150 * time)
    bursts = (torch.sin(2 * math.pi * 5 * time) > 0) * torch.randn(n, samples, generator=generator)
    return (0.3 * hum + 0.1 * bursts)[:, None]


def noisy(x: Tensor, level: float) -> Tensor:
    return x + level * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def test_ratios_agree_with_torchmetrics() -> None:
    """Figures of version 1.9.0. Where it is installed, Fabric takes twice as long to import."""
    x = sounds()
    made = 0.7 * noisy(x, 0.1) + 0.01
    # signal_noise_ratio(made, x); scale_invariant_signal_distortion_ratio(made, x, zero_mean=True)
    assert snr_db(x, made).tolist() == pytest.approx([7.21292, 7.30307, 7.30231], abs=1e-3)
    assert si_sdr_db(x, made).tolist() == pytest.approx([7.01526, 7.10133, 7.09688], abs=1e-3)


def test_ratios_of_half_the_amplitude() -> None:
    x = sounds()
    torch.testing.assert_close(
        snr_db(x, 0.5 * x),
        torch.full((3,), 20 * math.log10(2)).double(),
        rtol=1e-4,
        atol=0,
    )
    assert (si_sdr_db(x, 0.5 * x) > 100).all()


@pytest.mark.parametrize("level", [0.0, 0.1])
def test_silence_has_finite_figures(level: float) -> None:
    silent = torch.zeros(1, 1, 4000)
    for original, made in ((silent, noisy(silent, level)), (noisy(silent, 0.1), silent)):
        for measure in METRICS_BY_NDIM[2]:
            figure = measure.compute(original, made, RATE)
            assert figure.shape == (1,)
            assert torch.isfinite(figure).all(), measure.name


def test_silence_is_not_intelligible() -> None:
    x = sounds(2, samples=7000) * torch.tensor([0.0, 1.0])[:, None, None]
    silent, clear = stoi_score(x, x, RATE).tolist()
    assert silent == 0
    assert clear == pytest.approx(1)


def test_intelligibility_is_that_of_pystoi_on_repeated_sounds() -> None:
    from pystoi import stoi

    x = sounds(2, samples=7000)
    made = noisy(x, 0.2)
    expected = [
        stoi(*(np.tile(part[i, 0].double().numpy(), 2) for part in (x, made)), RATE)
        for i in range(2)
    ]
    np.testing.assert_allclose(stoi_score(x, made, RATE).numpy(), expected, rtol=1e-6)


def test_more_noise_is_worse_by_every_measure() -> None:
    x = sounds()
    for measure in METRICS_BY_NDIM[2]:
        figures = [measure.compute(x, noisy(x, level), RATE).mean() for level in (0.01, 0.1, 1.0)]
        rising = figures == sorted(figures)
        assert rising == (measure.name in ("stft", "mel")), measure.name
        assert figures[0] != figures[2]


def test_means_are_over_samples_whatever_the_batches() -> None:
    x = sounds(5)
    made = noisy(x, 0.1)
    labels = torch.tensor([0, 1, 0, 1, 1])

    def logits(samples: Tensor) -> Tensor:  # reads 1 in all but the first sample
        first = (samples == made[0]).flatten(1).all(1)
        return torch.stack([first.float(), 1 - first.float()], dim=1)

    means = MetricAccumulator((1, 4000), RATE, logits)
    for part in (slice(0, 2), slice(2, 5)):
        means.add(made[part], x[part], labels[part])
    assert means.mse == pytest.approx((made - x).square().mean().item())
    assert means.label_accuracy == 0.8
    assert set(means.metrics) == {measure.name for measure in METRICS_BY_NDIM[2]}
    assert means.metrics["mel"] == pytest.approx(log_mel_distance(x, made, RATE).mean().item())
    assert means.metrics["stft"] == pytest.approx(
        multi_resolution_stft_distance(x, made).mean().item()
    )


def test_images_have_an_error_alone() -> None:
    means = MetricAccumulator((1, 2, 2), None, None)
    means.add(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), None)
    assert means.mse == 1
    assert means.metrics == {}
    assert means.label_accuracy is None


def test_series_have_the_ratio_to_noise_alone() -> None:
    x = sounds().expand(-1, 3, -1)
    made = noisy(x, 0.1)
    means = MetricAccumulator(tuple(x.shape[1:]), None, None)
    means.add(made, x, None)
    assert means.metrics == {"snr": pytest.approx(snr_db(x, made).mean().item())}


def test_equal_channels_measure_as_one() -> None:
    x = sounds()
    made = noisy(x, 0.1)
    both = x.expand(-1, 2, -1), made.expand(-1, 2, -1)
    for measure in METRICS_BY_NDIM[2]:
        found, expected = measure.compute(*both, RATE), measure.compute(x, made, RATE)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
