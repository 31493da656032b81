"""Error feedback: earlier codes never hear of later ones, later ones correct earlier ones."""

from __future__ import annotations

import torch

from anytime_ar.autoencoder import VectorQuantizerConfig
from anytime_ar.autoencoder.quantizers import VectorQuantizer
from anytime_ar.autoencoder.quantizers.vector import ErrorFeedback

L, D, V = 5, 3, 4


def quantizer(*, shared: bool = False) -> VectorQuantizer:
    config = VectorQuantizerConfig(vocabulary=V, shared_codebook=shared, dead_code_threshold=0)
    made = VectorQuantizer(config, L, D)
    generator = torch.Generator().manual_seed(0)
    made.codebooks.copy_(torch.randn(made.codebooks.shape, generator=generator))
    assert made.feedback is not None
    weight = 0.5 * torch.randn(made.feedback.weight.shape, generator=generator)
    made.feedback.weight.data.copy_(weight)
    return made.eval()


def vectors(batch: int = 40, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, L, D, generator=torch.Generator().manual_seed(seed))


def test_it_starts_as_plain_quantization() -> None:
    config = VectorQuantizerConfig(vocabulary=V)
    fed = VectorQuantizer(config, L, D)
    plain = VectorQuantizer(config.model_copy(update={"error_feedback": False}), L, D)
    plain.codebooks.copy_(fed.codebooks)
    assert torch.equal(fed.encode(vectors()), plain.encode(vectors()))


def test_it_equals_quantizing_one_position_after_the_other() -> None:
    for shared in (False, True):
        made = quantizer(shared=shared)
        assert made.feedback is not None
        x = vectors()
        errors: list[torch.Tensor] = []
        for position in range(L):
            shifted = x[:, position].clone()
            for earlier, error in enumerate(errors):
                block = made.feedback.weight[position, earlier * D : (earlier + 1) * D]
                shifted = shifted + error @ block
            codebook = made.codebooks[0 if shared else position]
            codes = torch.cdist(shifted, codebook).argmin(-1)
            assert torch.equal(made.encode(x)[:, position], codes)
            errors.append((shifted - codebook[codes]).detach())


def test_codes_depend_on_earlier_vectors_only() -> None:
    made, x = quantizer(), vectors()
    before = made.encode(x)
    for position in range(L):
        changed = x.clone()
        changed[:, position] += 1.0
        after = made.encode(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        if position < L - 1:
            assert not torch.equal(after[:, position + 1 :], before[:, position + 1 :])


def test_the_gradient_reaches_the_map_but_not_what_it_must_not_use() -> None:
    made, x = quantizer(), vectors().requires_grad_()
    made.train()
    kept = torch.ones(len(x), L, dtype=torch.bool)
    made(x, kept).vectors.square().sum().backward()
    assert made.feedback is not None
    gradient = made.feedback.weight.grad
    assert gradient is not None
    for position in range(L):
        assert (gradient[position, position * D :] == 0).all()
        if position:
            assert (gradient[position, : position * D] != 0).any()
    assert x.grad is not None
    assert (x.grad != 0).any()


def test_the_identity_makes_it_a_residual_quantizer() -> None:
    """With unit blocks, and nothing but the first vector to code, errors shrink code by code."""
    feedback = ErrorFeedback(L, 1)
    feedback.weight.data.fill_(0.0)
    for position in range(1, L):
        feedback.weight.data[position, position - 1] = 1.0
    grids = [torch.tensor([-1.0, 1.0]) * 0.5**position for position in range(L)]

    def nearest(shifted: torch.Tensor, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = (shifted - grids[position]).abs().argmin(-1)
        return chosen, grids[position][chosen][:, None]

    x = torch.zeros(64, L, 1)
    x[:, 0, 0] = torch.linspace(-1.9, 1.9, 64)
    shifted, numbers = feedback(x, nearest)
    chosen = torch.stack([grids[i][numbers[:, i]] for i in range(L)], dim=1)  # [B, L]
    for i in range(L):
        assert torch.equal(numbers[:, i], nearest(shifted[:, i], i)[0])
    for k in range(1, L + 1):
        error = (x[:, 0, 0] - chosen[:, :k].sum(1)).abs().max()
        assert error <= 0.5 ** (k - 1) + 1e-6
