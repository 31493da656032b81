"""What our quantizers promise beyond the oracle: kept codes only, restarts, k-means start."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from exchanges import Alone, Between
from torch import Tensor

from anytime_ar.autoencoder import QuantizerConfig
from anytime_ar.autoencoder.quantizers import (
    FiniteScalarQuantizerConfig,
    NoQuantizer,
    NoQuantizerConfig,
    Quantized,
    VectorQuantizer,
)
from anytime_ar.errors import InputError

B, L, D, V = 32, 3, 2, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(**values: Any) -> VectorQuantizer:
    config = QuantizerConfig.parse({"vocabulary": V, **values}, origin="test")
    quantizer = config.build(L, D)
    assert isinstance(quantizer, VectorQuantizer)
    books = torch.randn(quantizer.codebooks.shape, generator=generator(1))
    with torch.no_grad():
        quantizer.codebooks.copy_(books)
        quantizer.embed_avg.copy_(books)
    return quantizer


def vectors(n: int = B, seed: int = 0) -> Tensor:
    return torch.randn(n, L, D, generator=generator(seed))


def ragged() -> Tensor:
    return torch.arange(L) < (torch.arange(B) % L + 1)[:, None]


EVERY = torch.ones(B, L, dtype=torch.bool)


def learn(quantizer: VectorQuantizer, x: Tensor, kept: Tensor, seed: int = 0) -> Quantized:
    """A step of training."""
    quantized: Quantized = quantizer(x, kept)
    quantizer.update_codebooks(generator(seed), Alone())
    return quantized


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("codebook_update", ["ema", "loss"])
def test_cut_positions_change_nothing(shared: bool, codebook_update: str) -> None:
    kept = ragged()
    outcomes = []
    for x in (vectors(), torch.where(kept[..., None], vectors(), 100 * vectors(seed=5))):
        quantizer = build(
            shared_codebook=shared, codebook_update=codebook_update, dead_code_threshold=0.5
        )
        for step in range(5):
            out = learn(quantizer, x, kept, step)
        outcomes.append((out.loss, out.codes[kept], quantizer.state_dict()))
    (loss, codes, state), (loss2, codes2, state2) = outcomes
    torch.testing.assert_close(loss, loss2)
    assert torch.equal(codes, codes2)
    for name in state:
        torch.testing.assert_close(state[name], state2[name], msg=name)


def test_a_kept_position_does_change_them() -> None:
    kept = ragged()
    x = vectors()
    moved = torch.where(kept[..., None], x + 1, x)
    one, other = build(), build()
    assert learn(one, x, kept).loss != learn(other, moved, kept).loss
    assert not torch.equal(one.codebooks, other.codebooks)


@pytest.mark.parametrize("shared", [True, False])
def test_lookup_inverts_encode(shared: bool) -> None:
    quantizer = build(shared_codebook=shared)
    codes = torch.randint(V, (B, L), generator=generator(2))
    entries = quantizer.lookup(codes)
    assert torch.equal(quantizer.encode(entries), codes)
    # the mutation that must break it: another entry at one position
    codes[0, 1] = (codes[0, 1] + 1) % V
    assert not torch.equal(quantizer.encode(entries), codes)
    for k in range(1, L + 1):
        assert torch.equal(quantizer.lookup(codes[:, :k]), quantizer.lookup(codes)[:, :k])


def test_lookup_inverts_encode_on_a_grid() -> None:
    quantizer = FiniteScalarQuantizerConfig(levels=(5, 4, 3)).build(L, 3)
    codes = torch.arange(60).reshape(20, L)
    # Entries sit where their own level is found again, once past the squashing.
    x = torch.randn(500, L, 3, generator=generator())
    out = quantizer(x, torch.ones(500, L, dtype=torch.bool))
    torch.testing.assert_close(quantizer.lookup(out.codes), out.vectors)
    assert len(quantizer.lookup(codes).flatten(0, 1).unique(dim=0)) == 60


def test_a_grid_is_made_of_its_settings_and_not_stored() -> None:
    assert not FiniteScalarQuantizerConfig(levels=(5, 4, 3)).build(L, 3).state_dict()


def test_vectors_that_left_a_grid_are_brought_back() -> None:
    quantizer = FiniteScalarQuantizerConfig(levels=(3, 8, 64)).build(1, 3)
    every = quantizer.lookup(torch.arange(3 * 8 * 64)[:, None])
    grid = (every.min(0).values, every.max(0).values)
    lost = torch.tensor([[[1e3, -1e3, 1e3]], [[-1e3, 1e3, -1e3]]]).requires_grad_()
    kept = torch.ones(2, 1, dtype=torch.bool)
    steps = torch.optim.SGD([lost], lr=1.0)
    for _ in range(200):  # by the quantizer's own loss: that of the bound has no slope out there
        steps.zero_grad()
        out = quantizer(lost, kept)
        out.loss.backward()
        steps.step()
    assert out.loss < 1e-6
    ends = quantizer(lost, kept).vectors
    assert torch.equal(ends.max(0).values, grid[1])  # and still reach the outermost levels
    assert torch.equal(ends.min(0).values, grid[0])
    cut = torch.tensor([[True], [False]])
    assert quantizer(torch.zeros(2, 1, 3), kept).loss == 0
    assert quantizer(lost.detach() * torch.tensor([[[0.0]], [[9.0]]]), cut).loss == 0


def test_nearest_entry() -> None:
    quantizer = build(shared_codebook=False)
    x = vectors()
    distances = (x[:, :, None] - quantizer.codebooks).norm(dim=-1)  # [B, L, V]
    assert torch.equal(quantizer.encode(x), distances.argmin(-1))


def test_eval_learns_nothing() -> None:
    quantizer = build().eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(vectors(), EVERY)
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_gradient_passes_straight_through() -> None:
    quantizer = build(commitment=0.0).eval()
    x = vectors().requires_grad_()
    weights = torch.randn(x.shape, generator=generator(3))
    (quantizer(x, EVERY).vectors * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weights)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("codebook_update", ["ema", "loss"])
def test_dead_entries_restart_at_kept_vectors(shared: bool, codebook_update: str) -> None:
    quantizer = build(
        shared_codebook=shared,
        codebook_update=codebook_update,
        ema_decay=0.5,
        dead_code_threshold=0.1,
    )
    with torch.no_grad():
        quantizer.codebooks[:, 1:] = 1000.0  # only entry 0 is ever near
        quantizer.embed_avg[:, 1:] = 1000.0
    kept = ragged()
    x = torch.where(kept[..., None], vectors(), 50.0)
    for step in range(8):
        learn(quantizer, x, kept, step)
        if codebook_update == "ema":  # what restarted has a past to match, and stays where it is
            mean = quantizer.embed_avg / quantizer.cluster_size[..., None]
            torch.testing.assert_close(mean, quantizer.codebooks)
    assert quantizer.codebooks.abs().max() < 10  # neither 1000 nor a position that is cut off
    used = [len(quantizer.encode(x)[kept[:, i], i].unique()) for i in range(L)]
    assert min(used) > 1


def test_no_restart_where_none_is_asked_for() -> None:
    quantizer = build(ema_decay=0.5, dead_code_threshold=0)
    with torch.no_grad():
        quantizer.codebooks[:, 3] = 1000.0
        quantizer.embed_avg[:, 3] = 1000.0
    for step in range(200):  # long enough for the count of an unused entry to vanish
        learn(quantizer, vectors(seed=step), EVERY, step)
    assert (quantizer.codebooks[:, 3] > 990).all()
    assert torch.isfinite(quantizer.codebooks).all()


def test_a_position_that_is_never_kept_stays_as_it_is() -> None:
    quantizer = build(ema_decay=0.5, dead_code_threshold=0.9)
    quantizer.cluster_size[:, 0] = 0.01  # an entry out of use, which restarts only at kept vectors
    quantizer.embed_avg[:, 0] *= 0.01
    before = quantizer.codebooks.clone()
    kept = torch.tensor([True, False, False]).expand(B, L)
    for step in range(60):
        learn(quantizer, vectors(seed=step), kept, step)
    torch.testing.assert_close(quantizer.codebooks[1:], before[1:])
    assert not torch.equal(quantizer.codebooks[0], before[0])


@pytest.mark.parametrize("shared", [True, False])
def test_parts_of_a_batch_teach_what_the_batch_teaches(shared: bool) -> None:
    """In two passes, and in two processes; restarts included."""
    options = {"shared_codebook": shared, "ema_decay": 0.5, "dead_code_threshold": 0.5}
    whole, passes, *ranks = (build(**options) for _ in range(4))
    with torch.no_grad():
        for quantizer in (whole, passes, *ranks):
            quantizer.codebooks[:, 3] = 1000.0  # never near
    told, barrier = [torch.empty(0)] * 2, threading.Barrier(2)

    def learn_in_rank(rank: int, x: Tensor, kept: Tensor, seed: int) -> None:
        ranks[rank](x, kept)
        ranks[rank].update_codebooks(generator(seed), Between(rank, told, barrier))

    for step in range(6):
        x, kept = vectors(seed=step), ragged()
        learn(whole, x, kept, step)
        halves = list(zip(x.chunk(2), kept.chunk(2), strict=True))
        for half in halves:
            passes(*half)
        passes.update_codebooks(generator(step), Alone())
        with ThreadPoolExecutor(2) as pool:
            both = [
                pool.submit(learn_in_rank, rank, *half, step) for rank, half in enumerate(halves)
            ]
        assert all(one.result() is None for one in both)
        for quantizer in (passes, *ranks):
            for name, value in whole.state_dict().items():
                torch.testing.assert_close(quantizer.state_dict()[name], value, msg=name)
    assert whole.codebooks.abs().max() < 10  # it was put where vectors are


@pytest.mark.parametrize("shared", [True, False])
def test_kmeans_start_finds_clusters(shared: bool) -> None:
    centres = torch.tensor([[-9.0, -9.0], [-9.0, 9.0], [9.0, -9.0], [9.0, 9.0]])
    which = torch.randint(V, (400, L), generator=generator())
    x = centres[which] + 0.1 * torch.randn(400, L, D, generator=generator(1))
    quantizer = build(shared_codebook=shared)
    for seed in range(20):  # Lloyd's algorithm may stop in a local optimum: the best of some
        quantizer.init_codebooks(x, generator(seed))
        error = (quantizer.lookup(quantizer.encode(x)) - x).square().mean()
        if error < 0.02:
            break
    assert error < 0.02
    assert torch.equal(quantizer.embed_avg, quantizer.codebooks)
    learn(quantizer, x, torch.ones(400, L, dtype=torch.bool))  # goes on from there
    assert (quantizer.lookup(quantizer.encode(x)) - x).square().mean() < 0.02


def test_kmeans_start_with_fewer_vectors_than_entries() -> None:
    quantizer = build(vocabulary=16)
    x = vectors(5)
    quantizer.init_codebooks(x, generator())
    torch.testing.assert_close(quantizer.lookup(quantizer.encode(x)), x)


def test_random_start_keeps_the_random_entries() -> None:
    quantizer = build(start="random")
    before = quantizer.codebooks.clone()
    quantizer.init_codebooks(vectors(), generator())
    assert torch.equal(quantizer.codebooks, before)


def test_shared_is_one_codebook_and_otherwise_one_per_position() -> None:
    assert build(shared_codebook=True).codebooks.shape == (1, V, D)
    assert build(shared_codebook=False).codebooks.shape == (L, V, D)
    assert isinstance(build(codebook_update="loss").codebooks, torch.nn.Parameter)
    assert not isinstance(build(codebook_update="ema").codebooks, torch.nn.Parameter)


def test_codebook_update_loss_improves_under_an_optimizer() -> None:
    quantizer = build(shared_codebook=True, codebook_update="loss", dead_code_threshold=0)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.05)
    x = vectors(B)
    first = quantizer(x, EVERY).loss.item()
    for _ in range(60):
        optimizer.zero_grad()
        out = quantizer(x, EVERY)
        out.loss.backward()
        optimizer.step()
    assert out.loss.item() < 0.7 * first


def test_without_quantizer() -> None:
    quantizer = NoQuantizerConfig().build(L, D)
    assert isinstance(quantizer, NoQuantizer)
    x = vectors()
    out = quantizer(x, EVERY)
    assert out.vectors is x
    assert out.loss == 0
    with pytest.raises(InputError, match="without quantizer has no codes"):
        quantizer.encode(x)
    with pytest.raises(InputError, match="without quantizer cannot decode"):
        quantizer.lookup(out.codes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "fsq"}, r"fsq needs levels >= 3 per dimension, e.g. \[8, 5, 5\], got \[\]"),
        ({"kind": "fsq", "levels": [2, 5]}, r"got \[2, 5\]"),
        ({"levels": [8, 5]}, r"levels is \[8, 5\], a setting of kind=fsq, not of vq; drop it"),
        ({"vocabulary": 1}, r"vocabulary: .*greater than or equal to 2 \(got 1\)"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_bad_config(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        QuantizerConfig.parse(values, origin="test")
    assert FiniteScalarQuantizerConfig(levels=(8, 5, 5)).size == 200
