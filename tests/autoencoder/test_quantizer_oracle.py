"""Our quantizers against vector-quantize-pytorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import vector_quantize_pytorch as vq
from exchanges import Alone
from torch import Tensor

from anytime_ar.autoencoder import QuantizerConfig
from anytime_ar.autoencoder.quantizers import FiniteScalarQuantizer, VectorQuantizer

B, L, D, V = 16, 3, 4, 8


def ours(*, shared: bool, codebook_update: str = "ema") -> VectorQuantizer:
    config = QuantizerConfig.parse(
        {
            "vocabulary": V,
            "shared_codebook": shared,
            "codebook_update": codebook_update,
            "commitment": 0.7,
            "ema_decay": 0.8,
            "dead_code_threshold": 0,
        },
        origin="test",
    )
    quantizer = config.build(L, D)
    assert isinstance(quantizer, VectorQuantizer)
    books = torch.randn(quantizer.codebooks.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        quantizer.codebooks.copy_(books)
        quantizer.embed_avg.copy_(books)
    return quantizer


def theirs(codebook: Tensor, *, codebook_update: str = "ema") -> Any:
    """The library's quantizer over one codebook [V, D]."""
    ema = codebook_update == "ema"
    oracle = vq.VectorQuantize(
        dim=D,
        codebook_size=V,
        decay=0.8,
        commitment_weight=0.7,
        rotation_trick=False,
        ema_update=ema,
        learnable_codebook=not ema,
        eps=1e-9,  # its smoothing of small counts, which we leave out
    )
    with torch.no_grad():
        oracle._codebook.embed.copy_(codebook[None])
        oracle._codebook.embed_avg.copy_(codebook[None])
    return oracle


def vectors(seed: int = 0) -> Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(seed))


def ragged() -> Tensor:
    """bool [B, L]: prefixes of every length."""
    return torch.arange(L) < (torch.arange(B) % L + 1)[:, None]


def step(quantizer: VectorQuantizer, x: Tensor, kept: Tensor) -> Any:
    quantized = quantizer(x, kept)
    quantizer.update_codebooks(torch.Generator().manual_seed(0), Alone())
    return quantized


@pytest.mark.parametrize("masked", [False, True])
def test_shared_codebook(masked: bool) -> None:
    quantizer = ours(shared=True)
    oracle = theirs(quantizer.codebooks[0])
    kept = ragged() if masked else torch.ones(B, L, dtype=torch.bool)
    for seed in range(3):  # three steps: the average moves
        mine, other = vectors(seed).requires_grad_(), vectors(seed).requires_grad_()
        out = step(quantizer, mine, kept)
        quantized, codes, loss = oracle(other, mask=kept)
        assert torch.equal(out.codes[kept], codes[kept])
        torch.testing.assert_close(out.vectors[kept], quantized[kept])
        torch.testing.assert_close(out.loss, loss.squeeze())
        torch.testing.assert_close(quantizer.codebooks, oracle._codebook.embed)
        weights = torch.randn(D, generator=torch.Generator().manual_seed(9))
        (out.loss + (out.vectors[kept] * weights).sum()).backward()
        (loss.sum() + (quantized[kept] * weights).sum()).backward()
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, other.grad)
    assert torch.equal(quantizer.encode(vectors(7)), oracle.eval()(vectors(7))[1])


def test_codebook_per_position() -> None:
    quantizer = ours(shared=False)
    oracles = [theirs(book) for book in quantizer.codebooks]
    kept = ragged()
    for seed in range(3):
        x = vectors(seed)
        out = step(quantizer, x, kept)
        total = torch.zeros(())
        for position, oracle in enumerate(oracles):
            here = kept[:, position]
            quantized, codes, loss = oracle(x[here, position][None])
            assert torch.equal(out.codes[here, position], codes[0])
            torch.testing.assert_close(out.vectors[here, position], quantized[0])
            torch.testing.assert_close(
                quantizer.codebooks[position], oracle._codebook.embed[0], msg=f"at {position}"
            )
            total = total + loss.detach().squeeze() * here.sum()
        torch.testing.assert_close(out.loss, total / kept.sum())


def test_codebook_codebook_update_loss() -> None:
    quantizer = ours(shared=True, codebook_update="loss")
    oracle = theirs(quantizer.codebooks[0].detach(), codebook_update="loss")
    x, kept = vectors(), ragged()
    out = step(quantizer, x, kept)
    _, _, loss = oracle(x.clone(), mask=kept)
    # The library has one term, 0.7 of the squared error; ours adds the codebook's own, of weight 1.
    torch.testing.assert_close(out.loss / 1.7, loss.squeeze() / 0.7)
    out.loss.backward()
    loss.sum().backward()
    assert quantizer.codebooks.grad is not None
    assert quantizer.codebooks.grad.abs().sum() > 0
    torch.testing.assert_close(quantizer.codebooks.grad, oracle._codebook.embed.grad / 0.7)


@pytest.mark.parametrize("levels", [(8, 5, 5), (3,), (4, 4), (7, 6, 5, 5), (8, 8, 8), (3, 10)])
def test_finite_scalar(levels: tuple[int, ...]) -> None:
    mine, oracle = FiniteScalarQuantizer(levels, 0.25), vq.FSQ(list(levels))
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(64, 5, len(levels), generator=generator)
    other = x.clone().requires_grad_()
    x.requires_grad_()
    out = mine(x, torch.ones(64, 5, dtype=torch.bool))
    quantized, codes = oracle(other)
    assert torch.equal(out.codes, codes.long())
    torch.testing.assert_close(out.vectors, quantized)
    assert mine(x.clamp(-1, 1), torch.ones(64, 5, dtype=torch.bool)).loss == 0  # all within reach
    weights = torch.randn(out.vectors.shape, generator=generator)
    (out.vectors * weights).sum().backward()
    (quantized * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, other.grad)
    every = torch.arange(int(oracle.codebook_size))[None]
    torch.testing.assert_close(mine.lookup(every)[0], oracle.implicit_codebook)


def test_finite_scalar_extremes_stay_on_the_grid() -> None:
    for levels in [(3, 4), (8, 5), (16, 7)]:
        mine = FiniteScalarQuantizer(levels, 0.25)
        lowest, highest = mine.encode(torch.tensor([[[-1e4, -1e4]], [[1e4, 1e4]]]))[:, 0].tolist()
        assert (lowest, highest) == (0, levels[0] * levels[1] - 1)
