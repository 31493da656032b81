"""A linear ordered autoencoder recovers PCA, basis vectors in order (paper section 3.1)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anytime_ar.autoencoder import (
    AutoencoderConfig,
    OrderedAutoencoder,
    Truncation,
    TruncationConfig,
)
from anytime_ar.training.config import AutoencoderTrainingConfig
from anytime_ar.training.stages.autoencoder import AutoencoderObjective

SIDE, L, N = 4, 8, 256
FLAT = SIDE**2


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Images float64 [N, 1, 4, 4], their principal directions [16, 16] and variances [16].

    Whitened noise, so that the sample's own covariance has exactly these eigenvectors.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(N, FLAT, generator=generator, dtype=torch.float64)
    noise = torch.linalg.qr(noise - noise.mean(0)).Q * N**0.5  # covariance is the identity
    basis = torch.linalg.qr(torch.randn(FLAT, FLAT, generator=generator, dtype=torch.float64)).Q
    variances = 0.7 ** torch.arange(FLAT, dtype=torch.float64)
    x = (noise * variances.sqrt()) @ basis.T
    return x.reshape(N, 1, SIDE, SIDE), basis, variances


class EveryK(Truncation):
    """The expectation over k taken exactly: n / L samples keep 1 code, the next n / L keep 2..."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return torch.arange(1, self.code_length + 1).repeat_interleave(n // self.code_length)


def train(*, truncated: bool) -> OrderedAutoencoder:
    """L-BFGS on the training objective, over every pair of image and k."""
    config = AutoencoderConfig.parse(
        {
            "layout": "linear",
            "code_length": L,
            "code_width": 1,
            "fill": "zeros",
            "quantizer": {"kind": "none"},
        },
        origin="test",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OrderedAutoencoder(config, (1, SIDE, SIDE)).double()
    full = TruncationConfig(distribution="full")
    options = AutoencoderTrainingConfig(scheme="one_stage", truncation=full)
    objective = AutoencoderObjective(model, options)
    x = data()[0]
    if truncated:
        objective.truncation = EveryK.uniform(L)
        x = x.repeat(L, 1, 1, 1)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=400, history_size=30, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(x, 0.0, torch.Generator().manual_seed(1))["loss"]
        loss.backward()
        return loss

    optimizer.step(closure)
    return model.eval()


@torch.no_grad()
def errors(model: OrderedAutoencoder) -> Tensor:
    """Mean squared error at k = 1..L."""
    x = data()[0]
    vectors = model.encode_vectors(x)
    return torch.stack(
        [
            (model.decode_vectors(vectors, torch.full((N,), k)).samples - x).square().mean()
            for k in range(1, L + 1)
        ]
    )


@torch.no_grad()
def alignment(model: OrderedAutoencoder) -> Tensor:
    """|cos| between the i-th basis vector of the decoder and the i-th eigenvector: [L]."""
    vectors = torch.eye(L, dtype=torch.float64)[..., None]  # one code at a time
    every = torch.full((L,), L)
    origin = model.decode_vectors(torch.zeros_like(vectors), every).samples
    directions = (model.decode_vectors(vectors, every).samples - origin).flatten(1)
    return torch.nn.functional.cosine_similarity(directions, data()[1][:, :L].T).abs()


@pytest.fixture(scope="module")
def pca_errors() -> Tensor:
    x, basis, variances = data()
    flat = x.flatten(1)
    found = torch.linalg.eigvalsh(flat.T @ flat / N).flip(0)
    torch.testing.assert_close(found, variances)  # the test's own premise
    rest = [(flat - flat @ basis[:, :k] @ basis[:, :k].T).square().mean() for k in range(1, L + 1)]
    return torch.stack(rest)


def test_linear_ordered_autoencoder_is_pca(pca_errors: Tensor) -> None:
    model = train(truncated=True)
    ratio = errors(model) / pca_errors
    assert (ratio >= 1 - 1e-9).all(), "nothing linear beats PCA"
    assert (ratio <= 1.01).all(), ratio
    assert (alignment(model) >= 0.99).all(), alignment(model)


def test_without_truncation_it_is_not(pca_errors: Tensor) -> None:
    """The same subspace at full length, but no order in it."""
    model = train(truncated=False)
    ratio = errors(model) / pca_errors
    assert ratio[-1] <= 1.01
    assert (ratio[: L // 2] > 1.2).all(), ratio
    assert (alignment(model) < 0.8).all(), alignment(model)
