"""Distances of sets, each against an independent implementation, and what their errors promise."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.evaluation import ReferenceDistribution
from anytime_ar.evaluation.metrics.distribution import MAX_PAIRWISE_SAMPLES, DistributionComparison

WIDTH = 12


def gaussians(count: int, seed: int, *, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(99))
    return torch.randn(count, WIDTH, generator=generator) @ mixing * scale + shift


def frechet_by_scipy(a: Tensor, b: Tensor) -> float:
    one, other = a.double().numpy(), b.double().numpy()
    covariances = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    traces = np.trace(covariances[0]) + np.trace(covariances[1])
    return float(((one.mean(0) - other.mean(0)) ** 2).sum() + traces - 2 * np.trace(root))


def kernel_by_scikit(a: Tensor, b: Tensor) -> float:
    one, other = a.double().numpy(), b.double().numpy()
    within = [polynomial_kernel(x, x, degree=3, coef0=1) for x in (one, other)]
    means = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in within]
    return float(sum(means) - 2 * polynomial_kernel(one, other, degree=3, coef0=1).mean())


def covered_by_scikit(queries: Tensor, balls: Tensor) -> float:
    """Share of the queries within any ball, which reaches to its third neighbour."""
    inside, centres = queries.double().numpy(), balls.double().numpy()
    radii = NearestNeighbors(n_neighbors=4).fit(centres).kneighbors(centres)[0][:, -1]
    distances = np.linalg.norm(inside[:, None] - centres[None], axis=-1)
    return float((distances <= radii).any(1).mean())


CASES = [(0.0, 1.0), (0.3, 1.0), (0.0, 1.5), (1.0, 0.2)]


@pytest.mark.parametrize(("shift", "scale"), CASES)
def test_equals_other_implementations(shift: float, scale: float) -> None:
    real, fake = gaussians(300, 0), gaussians(200, 1, shift=shift, scale=scale)
    found = ReferenceDistribution(real.split(64)).compare(fake.split(50))
    assert found.fd == pytest.approx(frechet_by_scipy(real, fake), rel=1e-8)
    assert found.quality.kd == pytest.approx(kernel_by_scikit(real, fake), rel=1e-8, abs=1e-8)
    assert found.quality.precision == pytest.approx(covered_by_scikit(fake, real))
    assert found.quality.recall == pytest.approx(covered_by_scikit(real, fake))


def test_one_reference_serves_many_sets_in_any_batches() -> None:
    real, fake = gaussians(300, 0), gaussians(200, 1, shift=0.5)
    reference = ReferenceDistribution([real])
    assert reference.count == 300
    whole = reference.compare([fake]).fd
    assert reference.compare(fake.split(7)).fd == pytest.approx(whole, rel=1e-9)
    same = reference.compare(real.split(7))
    assert same.fd == pytest.approx(0, abs=1e-6)
    assert (same.quality.precision, same.quality.recall) == (1, 1)


def test_a_large_mean_does_not_cost_precision() -> None:
    real, fake = gaussians(300, 0, shift=1e4), gaussians(200, 1, shift=1e4 + 0.5)
    expected = frechet_by_scipy(real, fake)
    assert ReferenceDistribution([real]).compare([fake]).fd == pytest.approx(expected, rel=1e-8)


def test_precision_and_recall_tell_apart_what_is_wrong() -> None:
    reference = ReferenceDistribution([gaussians(400, 0)])
    narrow = reference.compare([gaussians(400, 1, scale=0.3)]).quality
    assert narrow.precision > 0.95
    assert narrow.recall < 0.3
    wide = reference.compare([gaussians(400, 1, scale=3.0)]).quality
    assert wide.precision < 0.3


def test_errors_are_what_seeds_differ_by() -> None:
    reference = ReferenceDistribution([gaussians(2000, 0)])
    found = [reference.compare([gaussians(1000, seed, shift=0.7)]) for seed in range(1, 41)]
    errors = np.mean([list(errors_of(comparison)) for comparison in found], axis=0)
    spreads = np.std([list(values_of(comparison)) for comparison in found], axis=0, ddof=1)
    # 40 seeds know their own spread within a quarter. The error of recall leaves out that the balls
    # move with the samples.
    np.testing.assert_allclose(errors[:3], spreads[:3], rtol=0.3)
    np.testing.assert_allclose(errors[3], spreads[3], rtol=0.5)


def test_errors_hold_near_the_floor() -> None:
    reference = ReferenceDistribution([gaussians(2000, 0)])
    found = [reference.compare([gaussians(1000, seed)]) for seed in range(1, 41)]
    spread = np.std([comparison.fd for comparison in found], ddof=1)
    error = np.mean([errors_of(comparison)[0] for comparison in found])
    assert 0.8 * spread < error < 1.8 * spread


def values_of(found: DistributionComparison) -> tuple[float, ...]:
    quality = found.quality
    return found.fd, quality.kd, quality.precision, quality.recall


def errors_of(found: DistributionComparison) -> tuple[float, ...]:
    quality = found.quality
    assert quality.fd_stderr is not None
    assert quality.kd_stderr is not None
    return quality.fd_stderr, quality.kd_stderr, quality.precision_stderr, quality.recall_stderr


def test_errors_are_the_same_twice() -> None:
    sets = gaussians(300, 0), gaussians(200, 1)
    assert ReferenceDistribution([sets[0]]).compare([sets[1]]) == ReferenceDistribution(
        [sets[0]]
    ).compare([sets[1]])


def test_a_handful_has_no_error() -> None:
    found = ReferenceDistribution([gaussians(300, 0)]).compare([gaussians(20, 1)])
    assert found.quality.fd_stderr is None
    assert found.fd == pytest.approx(frechet_by_scipy(gaussians(300, 0), gaussians(20, 1)))


def test_all_pairs_are_those_of_samples_from_all_over_the_set() -> None:
    """Of a set in which one half is unlike the other, as where classes are sorted."""
    halves = [gaussians(MAX_PAIRWISE_SAMPLES, 1), gaussians(MAX_PAIRWISE_SAMPLES, 2, shift=9.0)]
    reference = ReferenceDistribution(halves)
    for half in halves:
        found = reference.compare([half[:1000]]).quality
        assert found.precision > 0.9
        assert found.recall < 0.6
    mixed = torch.cat([halves[0][:500], halves[1][:500]])
    whole = reference.compare(mixed.split(300)).quality
    assert whole.precision > 0.9
    assert abs(whole.kd) < 0.05 * reference.compare([halves[0][:1000]]).quality.kd


def test_large_pairs_stay_pairs() -> None:
    """What is kept of both sides are samples and what these were made from."""
    real = gaussians(MAX_PAIRWISE_SAMPLES + 2000, 0)
    found = ReferenceDistribution(real.split(999)).compare((real + 0.01).split(123), paired=True)
    assert found.quality.precision == found.quality.recall == 1
    shuffled = (real + 0.01)[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))]
    other = ReferenceDistribution([real]).compare([shuffled], paired=True)
    assert abs(found.quality.kd) < 0.1
    assert other.quality.kd < -1  # where the wrong pairs are left out, and the right ones counted


def test_too_few_samples() -> None:
    with pytest.raises(InputError, match="need at least 2 samples, got 1"):
        ReferenceDistribution([gaussians(1, 0)])
    with pytest.raises(InputError, match="need at least 2 samples, got 0"):
        ReferenceDistribution([gaussians(9, 0)]).compare([])


def test_features_that_are_not_finite() -> None:
    reference = ReferenceDistribution([gaussians(90, 0)])
    with pytest.raises(InputError, match="not finite"):
        reference.compare([gaussians(90, 0) * float("nan")])
    assert reference.compare([gaussians(90, 0)]).fd == pytest.approx(0, abs=1e-6)


def test_pairs_are_not_compared_with_themselves() -> None:
    """What is left to tell apart from the real set, where each sample is made from one of it."""
    real = gaussians(300, 0)
    made = real + 0.3 * gaussians(300, 1)
    paired = ReferenceDistribution([real]).compare(made.split(70), paired=True)
    assert paired.fd == pytest.approx(ReferenceDistribution([real]).compare([made]).fd)
    products = (made.double() @ real.double().T / WIDTH + 1) ** 3
    across = (products.sum() - products.trace()) / (300 * 299)
    everyone = float(products.mean())
    expected = kernel_by_scikit(made, real) + 2 * (everyone - float(across))
    assert paired.quality.kd == pytest.approx(expected, rel=1e-6)


def test_errors_of_pairs_are_what_real_sets_differ_by() -> None:
    found = []
    for seed in range(40):
        real = gaussians(1000, seed)
        made = 0.9 * real + 0.1 * gaussians(1000, 100 + seed)
        found.append(ReferenceDistribution([real]).compare([made], paired=True))
    errors = np.mean([errors_of(comparison)[:2] for comparison in found], axis=0)
    spreads = np.std([values_of(comparison)[:2] for comparison in found], axis=0, ddof=1)
    np.testing.assert_allclose(errors, spreads, rtol=0.35)


def test_pairs_need_sets_of_one_size() -> None:
    with pytest.raises(InputError, match="200 samples cannot be made from 300 real ones"):
        ReferenceDistribution([gaussians(300, 0)]).compare([gaussians(200, 1)], paired=True)
