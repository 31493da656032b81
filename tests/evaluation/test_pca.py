from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA as SklearnPCA

from anytime_ar.errors import InputError
from anytime_ar.evaluation import fit_pca


def spectrum(dimensions, count=500):
    """Data with slowly falling variances and a mean."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, dimensions, generator=generator)
    rotation = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=generator)).Q
    return (x * torch.arange(1, dimensions + 1) ** -0.5) @ rotation + 0.3


@pytest.mark.parametrize("dimensions", [20, 120])
def test_errors_equal_sklearns_at_every_k(dimensions):
    x = spectrum(dimensions)
    train, test = x[:400], x[400:]
    fitted = fit_pca(lambda: train.split(64), 12)
    errors = fitted.squared_errors(test).mean(dim=0)
    for k in range(1, 13):
        oracle = SklearnPCA(k, svd_solver="full").fit(train.double().numpy())
        reconstructed = oracle.inverse_transform(oracle.transform(test.double().numpy()))
        expected = ((reconstructed - test.double().numpy()) ** 2).sum(axis=1).mean()
        assert float(errors[k - 1]) == pytest.approx(expected, rel=5e-3)


def test_components_are_orthonormal_and_ordered():
    x = spectrum(60)
    fitted = fit_pca(lambda: [x], 8)
    gram = fitted.components.T @ fitted.components
    assert torch.allclose(gram, torch.eye(8, dtype=torch.float64), atol=1e-9)
    variances = ((x.double() - fitted.mean) @ fitted.components).var(dim=0)
    assert (variances.diff() < 0).all()


def test_no_more_components_than_dimensions():
    x = torch.randn(50, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    fitted = fit_pca(lambda: [x], 9)
    assert fitted.components.shape == (4, 4)
    assert fitted.squared_errors(x)[:, -1].max() < 1e-9


def test_no_samples():
    with pytest.raises(InputError, match="PCA needs samples"):
        fit_pca(list, 2)
