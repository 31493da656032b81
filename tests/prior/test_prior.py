"""The prior: causality at every prefix, labels, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.prior import Prior, PriorConfig
from anytime_ar.prior.block import Dropout

L, V, LABELS, B = 7, 5, 3, 4


def build(label_count: int = LABELS, dropout: float = 0.3) -> Prior:
    config = PriorConfig(layers=2, width=16, heads=2, mlp_ratio=2, dropout=dropout)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = Prior(config, L, V, label_count).eval()
        with torch.no_grad():  # weights start small; here everything should matter
            for weight in prior.parameters():
                weight.copy_(weight + 0.3 * torch.randn_like(weight))
    return prior


def codes(n: int = B, seed: int = 0) -> Tensor:
    return torch.randint(V, (n, L), generator=torch.Generator().manual_seed(seed))


LABELLED = torch.tensor([0, 1, 2, LABELS])


@pytest.mark.parametrize("length", range(1, L + 1))
def test_a_prefix_gives_the_same_logits(length: int) -> None:
    prior = build()
    with torch.no_grad():
        whole, part = prior(codes(), LABELLED), prior(codes()[:, :length], LABELLED)
    torch.testing.assert_close(part, whole[:, :length])


@pytest.mark.parametrize("position", range(L))
def test_causality_at_every_prefix(position: int) -> None:
    prior, x = build(), codes()
    other = x.clone()
    other[:, position] = (other[:, position] + 1) % V
    with torch.no_grad():
        before, after = prior(x, LABELLED), prior(other, LABELLED)
    assert torch.equal(before[:, : position + 1], after[:, : position + 1])
    changed = (before != after).any(-1)  # [B, L]
    assert changed[:, position + 1 :].all()


def test_gradients_reach_every_earlier_position_and_no_later_one() -> None:
    prior = build()
    inputs: list[Tensor] = []
    handle = prior.code_embedding.register_forward_hook(
        lambda _module, _args, output: inputs.append(output.requires_grad_())
    )
    for position in range(L):
        inputs.clear()
        logits = prior(codes(1))
        (gradient,) = torch.autograd.grad(logits[0, position].square().sum(), inputs)
        seen = gradient[0].abs().sum(-1) > 0
        assert seen.tolist() == [i < position for i in range(L - 1)]
    handle.remove()


@torch.no_grad()
def test_the_label_matters_at_every_position() -> None:
    prior, x = build(), codes(1).expand(LABELS + 1, L)
    logits = prior(x, torch.arange(LABELS + 1))
    for one in range(LABELS + 1):
        for other in range(one):
            assert (logits[one] != logits[other]).any(-1).all()


@torch.no_grad()
def test_labels_may_be_added_at_every_position() -> None:
    config = PriorConfig(layers=1, width=16, heads=2, condition_every_position=True)
    prior = Prior(config, L, V, LABELS).eval()
    assert prior.added_label_embedding is not None
    prior.blocks[0].out.weight.zero_()  # no position sees another one
    prior.label_embedding.weight.zero_()
    logits = prior(codes(1).expand(2, L), torch.tensor([0, 1]))
    assert (logits[0] != logits[1]).any(-1).all()
    prior.added_label_embedding.weight.zero_()
    logits = prior(codes(1).expand(2, L), torch.tensor([0, 1]))
    assert torch.equal(logits[0], logits[1])


def test_positions_begin_alike_within_groups_and_at_the_same_place() -> None:
    """So that attention tells segments and levels apart before it has learned to."""
    plain = Prior(PriorConfig(layers=1, width=16, heads=2), 10, V)
    assert plain.position_embedding.abs().max() == 0
    config = PriorConfig(layers=1, width=16, heads=2, positions_per_table=4)
    grouped = Prior(config, 10, V).position_embedding.detach()  # groups of 2, 4 and 4
    step = grouped[3:6] - grouped[2:5]
    torch.testing.assert_close(step, grouped[7:10] - grouped[6:9])
    assert not torch.allclose(step[0], step[1])
    assert not torch.allclose(grouped[2], grouped[6])


@torch.no_grad()
def test_no_label_is_what_none_means() -> None:
    prior = build()
    assert prior.no_label == LABELS
    hidden = torch.full((B,), prior.no_label)
    assert torch.equal(prior(codes(), None), prior(codes(), hidden))


@torch.no_grad()
def test_an_entry_means_something_else_at_every_position() -> None:
    prior = build()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(prior.code_embedding.weight)
        prior.position_embedding.zero_()
    same = torch.zeros(1, L, dtype=torch.int64)
    logits = prior(same)
    assert not torch.allclose(logits[0, 3], logits[0, 5], atol=1e-2)


def test_too_many_codes() -> None:
    with pytest.raises(InputError, match="8 codes exceed code length 7; pass fewer"):
        build()(torch.zeros(1, L + 1, dtype=torch.int64))


def test_config() -> None:
    with pytest.raises(InputError, match="width 10 is not divisible by heads 4"):
        PriorConfig.parse({"width": 10, "heads": 4}, origin="test")
    with pytest.raises(InputError, match="dropout"):
        PriorConfig.parse({"dropout": 1.0}, origin="test")


def test_number_of_parameters() -> None:
    width, layers, hidden = 16, 2, 32
    block = 4 * width**2 + 2 * width * hidden + hidden + width + 4 * width
    expected = (
        L * V * width  # entries, which also score on the way out
        + L * V  # their biases
        + L * width  # positions
        + (LABELS + 1) * width  # labels
        + layers * block
        + 2 * width  # last norm
    )
    assert sum(weight.numel() for weight in build().parameters()) == expected


@torch.no_grad()
def test_dropout_in_training_only() -> None:
    prior = build(dropout=0.5)
    assert torch.equal(prior(codes()), prior(codes()))
    prior.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(prior(codes()), prior(codes()))


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_dropout_takes_its_share_anywhere_and_keeps_the_mean(share: float) -> None:
    """Sixteen bits at a time of random words: none of the four parts of a word is favoured."""
    x = torch.ones(3, 33_335, requires_grad=True)  # no whole number of words
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = Dropout(share)(x)
    y.sum().backward()
    assert torch.equal(y, x.grad)  # either 0 or the scale
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - share)])
    flat = y.detach().flatten()
    for part in range(4):
        some = flat[part::4]
        spread = (share / (1 - share) / len(some)) ** 0.5
        assert some.mean() == pytest.approx(1, abs=4 * spread)


def test_learns_a_small_distribution_exactly() -> None:
    """Two labels, three codes of three entries: every probability, to within two hundredths."""
    length, entries, labels = 3, 3, 2
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(labels, entries**length, generator=generator).square()
    table = table / table.sum(-1, keepdim=True)
    every = torch.cartesian_prod(*[torch.arange(entries)] * length)  # [27, 3]
    x, y = every.repeat(labels, 1), torch.arange(labels).repeat_interleave(len(every))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = PriorConfig(layers=1, width=64, heads=4, dropout=0)
        prior = Prior(config, length, entries, labels).train()

    def log_likelihood() -> Tensor:
        scores = prior(x, y).log_softmax(-1).gather(-1, x[..., None])[..., 0]  # [54, 3]
        return scores.sum(-1).reshape(labels, -1)

    steps = 200
    optimizer = torch.optim.Adam(prior.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -(table * log_likelihood()).sum()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        learned = log_likelihood().exp()
    torch.testing.assert_close(learned.sum(-1), torch.ones(labels))
    assert (learned - table).abs().max() < 0.02


def with_codebook_features(features: int = 8) -> Prior:
    """Tables for 3 and 4 positions; entries stand for vectors of 2 numbers."""
    config = PriorConfig(
        layers=2,
        width=16,
        heads=2,
        positions_per_table=4,
        embedding_width=3,
        codebook_features=features,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Prior(config, L, V, LABELS).eval()


def vectors(seed: int = 0) -> Tensor:
    """[L, V, 2], alike at positions of one table."""
    tables = torch.randn(2, V, 2, generator=torch.Generator().manual_seed(seed))
    return tables[[0] * 3 + [1] * 4]


@torch.no_grad()
def test_features_tell_the_length_and_the_direction_of_vectors() -> None:
    prior = with_codebook_features()
    prior.attach_codebook(vectors())
    features = prior.codebook_features.unflatten(0, (2, V))  # [tables, V, 4 + 2 + 2]
    of_tables = vectors()[[0, 3]]
    lengths = of_tables.norm(dim=2)
    level = (features[..., :4] * torch.arange(4)).sum(2) / features[..., :4].sum(2)
    assert torch.equal(level.argsort(1), lengths.argsort(1))
    assert level.min() == 0
    assert level.max() == 3
    directions = features[..., 4:6]
    scale = directions.norm(dim=2)
    torch.testing.assert_close(scale, torch.full_like(scale, scale[0, 0].item()))
    torch.testing.assert_close(directions / scale[0, 0], of_tables / lengths[..., None])
    assert torch.equal(features[..., 6:], directions.abs())


@torch.no_grad()
def test_features_are_seen_and_scored() -> None:
    prior, other, x = with_codebook_features(), with_codebook_features(), codes()
    for one in (prior, other):
        one.attach_codebook(vectors())
    assert torch.equal(prior(x), other(x))
    other.attach_codebook(vectors(seed=1))
    assert not torch.allclose(prior(x)[:, 0], other(x)[:, 0])  # where no code is seen
    same = prior.full_embeddings()
    torch.testing.assert_close(
        same,
        prior.embedding_projection(
            torch.cat([prior.codebook_features, prior.code_embedding.weight], 1)
        ),
    )


@torch.no_grad()
def test_tables_do_not_depend_on_the_order_of_sums() -> None:
    """Processors add in different orders, and codes must not depend on it."""
    prior, other = (with_codebook_features(features=30) for _ in range(2))
    order = torch.randperm(33, generator=torch.Generator().manual_seed(0))
    for one in (prior, other):
        one.attach_codebook(vectors())
    entries = torch.cat([prior.codebook_features, prior.code_embedding.weight], 1)[:, order]
    other.codebook_features.copy_(entries[:, :30])
    other.code_embedding.weight.copy_(entries[:, 30:])
    assert other.embedding_projection is not None
    other.embedding_projection.weight.copy_(prior.embedding_projection.weight[:, order])
    assert torch.equal(prior.full_embeddings(), other.full_embeddings())


def test_features_need_room() -> None:
    with pytest.raises(
        InputError, match=r"prior.codebook_features is 3, and entries .* 2 numbers; set it to 6"
    ):
        with_codebook_features(features=3).attach_codebook(vectors())
    with pytest.raises(InputError, match=r"codebook_features is 3, which needs embedding_width"):
        PriorConfig.parse({"codebook_features": 3}, origin="test")
