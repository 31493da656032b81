from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from anytime_ar.errors import InputError
from anytime_ar.evaluation import FrechetReference


class Flat(nn.Module):
    """Features are the values themselves."""

    num_features = 12

    def forward(self, x):
        return x.flatten(1)


def gaussians(count, seed, *, shift=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(12, 12, generator=torch.Generator().manual_seed(99))
    return (torch.randn(count, 12, generator=generator) @ mixing * scale + shift).view(-1, 3, 4)


def by_scipy(a, b):
    a, b = (x.flatten(1).double().numpy() for x in (a, b))
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    traces = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * np.trace(root)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.5), (1.0, 0.2)])
def test_equals_scipy(shift, scale):
    real, fake = gaussians(300, 0), gaussians(200, 1, shift=shift, scale=scale)
    reference = FrechetReference(Flat(), real.split(64))
    assert reference.distance(fake.split(50)) == pytest.approx(by_scipy(real, fake), rel=1e-8)


def test_one_reference_serves_many_sets_in_any_batches():
    real, fake = gaussians(300, 0), gaussians(200, 1, shift=0.5)
    reference = FrechetReference(Flat(), [real])
    first = reference.distance([fake])
    assert reference.count == 300
    assert reference.distance(real.split(7)) == pytest.approx(0, abs=1e-6)
    assert reference.distance(fake.split(7)) == pytest.approx(first, rel=1e-9)


def test_a_large_mean_does_not_cost_precision():
    real, fake = gaussians(300, 0, shift=100), gaussians(200, 1, shift=100.5)
    distance = FrechetReference(Flat(), [real]).distance([fake])
    assert distance == pytest.approx(by_scipy(real, fake), rel=1e-5)


def test_noise_is_terrible_and_real_images_are_not(features, splits):
    reference = FrechetReference(features, splits.test.data.split(64))
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(200, 1, 8, 8, generator=generator) * 2 - 1
    floor = reference.distance([splits.train.data[:200]])
    assert reference.distance([splits.test.data]) == pytest.approx(0, abs=1e-6)
    assert reference.distance([noise]) > 20 * floor > 0


def test_too_few_samples():
    with pytest.raises(InputError, match="needs at least 2 samples, got 1"):
        FrechetReference(Flat(), [gaussians(1, 0)])
    with pytest.raises(InputError, match="needs at least 2 samples, got 0"):
        FrechetReference(Flat(), [gaussians(9, 0)]).distance([])


def test_features_that_are_not_finite():
    reference = FrechetReference(Flat(), [gaussians(9, 0)])
    with pytest.raises(InputError, match="not finite"):
        reference.distance([gaussians(9, 0) * float("nan")])
    assert reference.distance([gaussians(9, 0)]) == pytest.approx(0, abs=1e-6)
