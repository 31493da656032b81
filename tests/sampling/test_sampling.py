"""`AnytimeModel`: one random stream per sample, previews, labels, guidance, and bad options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sampling_models import FREQUENCIES, LABELS, L, V, build_model, sample_shape
from torch import Tensor

import anytime_ar.sampling.model as sampling_model
import anytime_ar.sampling.sampler as engine
from anytime_ar.errors import InputError
from anytime_ar.prior.sampling_params import SamplingParams
from anytime_ar.sampling import AnytimeModel, DecodeBatch, uniform_noise


def test_shapes_and_range(model: AnytimeModel) -> None:
    codes = model.sample_codes(5, seed=0)
    assert codes.shape == (5, L)
    assert codes.dtype == torch.int64
    assert 0 <= codes.min() <= codes.max() < V
    x = model.sample(5, seed=0)
    assert x.shape == (5, *sample_shape())
    assert x.dtype == torch.float32
    assert x.abs().max() <= 1
    torch.testing.assert_close(x, model.decode(codes))
    assert (model.code_length, model.vocabulary, model.sample_shape) == (L, V, sample_shape())


@pytest.mark.parametrize("options", [{}, {"guidance": 2.0}, {"temperature": 0.7, "top_p": 0.9}])
def test_the_same_alone_in_a_batch_and_as_a_prefix(
    model: AnytimeModel, options: dict[str, Any]
) -> None:
    whole = model.sample_codes(40, seed=3, **options)
    for n in (1, 2, 3, 4, 7, 16):
        assert torch.equal(model.sample_codes(n, seed=3, **options), whole[:n])
    for k in range(1, L + 1):
        assert torch.equal(model.sample_codes(40, seed=3, codes=k, **options), whole[:, :k])
    assert torch.equal(model.sample_codes(40, seed=3, **options), whole)
    assert len(whole.unique(dim=0)) > 20  # else the above says little


@pytest.mark.parametrize("rows_at_once", [1, 3, 16])
def test_the_same_across_chunks(
    model: AnytimeModel, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    codes, x = model.sample_codes(17, seed=1, guidance=1.5), model.sample(17, seed=1)
    encoded = model.encode(x)
    for module in (engine, sampling_model):
        monkeypatch.setattr(module, "MAX_ROWS", rows_at_once)
    assert torch.equal(model.sample_codes(17, seed=1, guidance=1.5), codes)
    torch.testing.assert_close(model.sample(17, seed=1), x)
    assert torch.equal(model.encode(x), encoded)


def test_chunks_bound_the_rows_of_the_prior(
    model: AnytimeModel, monkeypatch: pytest.MonkeyPatch, steps: list[list[int]]
) -> None:
    monkeypatch.setattr(engine, "MAX_ROWS", 8)
    model.sample_codes(20, codes=1, seed=0)
    assert [len(positions) for positions in steps] == [8, 8, 4]
    monkeypatch.setattr(engine, "MAX_CACHE_BYTES", 3 * model.sampler.decoder.row_bytes)
    steps.clear()
    model.sample_codes(4, codes=1, seed=0)
    assert [len(positions) for positions in steps] == [3, 1]
    steps.clear()
    model.sample_codes(2, codes=1, seed=0, guidance=2.0)  # of each row there are two
    assert [len(positions) for positions in steps] == [2, 2]


def test_the_rows_of_one_chunk_are_free_before_the_next(
    model: AnytimeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MAX_ROWS", 8)
    decoder, held, most = model.sampler.decoder, [0], [0]
    allocate, release = decoder.allocate, decoder.release

    def allocating(rows: int) -> Any:
        held[0] += 1
        most[0] = max(most[0], held[0])
        return allocate(rows)

    def releasing(rows: Any) -> None:
        held[0] -= 1
        release(rows)

    monkeypatch.setattr(decoder, "allocate", allocating)
    monkeypatch.setattr(decoder, "release", releasing)
    model.sample_codes(30, codes=2, seed=0)
    assert (held, most) == ([0], [1])


def test_seeds(model: AnytimeModel) -> None:
    assert not torch.equal(model.sample_codes(8, seed=0), model.sample_codes(8, seed=1))
    assert not torch.equal(model.sample_codes(8), model.sample_codes(8))  # a fresh seed each
    before = torch.get_rng_state()
    model.sample(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_follow_the_prior(unconditional: AnytimeModel) -> None:
    """Frequencies of the first two codes, against probabilities of the full forward pass."""
    prior, n = unconditional.prior, 4000
    assert prior is not None
    codes = unconditional.sample_codes(n, codes=2, seed=0)
    first = torch.arange(V)[:, None].expand(V, 2)
    with torch.no_grad():
        logits = prior(first)  # [V, 2, V]
    joint = logits[:1, 0].softmax(-1).mT * logits[:, 1].softmax(-1)  # [V, V]
    counts = torch.bincount(codes[:, 0] * V + codes[:, 1], minlength=V * V).reshape(V, V)
    spread = (joint * (1 - joint) / n).sqrt()
    assert ((counts / n - joint).abs() <= 5 * spread + 1e-3).all()


def conditional_frequencies(model: AnytimeModel, guidance: float, label: int) -> Tensor:
    codes = model.sample_codes(4000, codes=1, seed=0, label=label, guidance=guidance)
    return torch.bincount(codes[:, 0], minlength=V) / len(codes)


def first_logits(model: AnytimeModel) -> Tensor:
    """Logits of the first code for every label, the last row without one."""
    assert model.prior is not None
    with torch.no_grad():
        labels = torch.arange(len(LABELS) + 1)
        return model.prior(torch.zeros(len(labels), 1, dtype=torch.int64), labels)[:, 0]


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 2.0])
def test_guidance(model: AnytimeModel, guidance: float) -> None:
    logits = first_logits(model)
    moved = logits[-1] + guidance * (logits[1] - logits[-1])
    got = conditional_frequencies(model, guidance, label=1)
    assert (got - moved.softmax(-1)).abs().max() < 0.03


def test_guidance_one_does_no_extra_work_and_zero_ignores_the_label(
    model: AnytimeModel, steps: list[list[int]]
) -> None:
    plain = model.sample_codes(12, seed=0, label=1)
    assert torch.equal(model.sample_codes(12, seed=0, label=1, guidance=1.0), plain)
    assert {len(positions) for positions in steps} == {12}
    steps.clear()
    zero = model.sample_codes(12, seed=0, label=1, guidance=0.0)
    assert {len(positions) for positions in steps} == {24}
    assert torch.equal(zero, model.sample_codes(12, seed=0, label=2, guidance=0.0))
    batch = DecodeBatch(model.sampler.decoder, 12)
    rows = batch.add(uniform_noise(0, range(12), 1 + L)[:, 1:], None, SamplingParams())
    for _ in range(L):
        batch.step()
    assert torch.equal(zero, batch.codes(rows))
    assert not torch.equal(zero, plain)


def test_guidance_above_one_sharpens(model: AnytimeModel) -> None:
    """What the label makes likelier by most grows likelier still."""
    chances = first_logits(model).log_softmax(-1)
    favourite = int((chances[1] - chances[-1]).argmax())
    by_guidance = [conditional_frequencies(model, g, label=1)[favourite] for g in (0, 1, 3)]
    assert by_guidance[0] < by_guidance[1] < by_guidance[2]


def test_labels_by_name_number_and_list(model: AnytimeModel) -> None:
    assert model.labels == LABELS
    by_number = model.sample_codes(6, seed=0, label=1)
    assert torch.equal(model.sample_codes(6, seed=0, label="dog"), by_number)
    assert torch.equal(model.sample_codes(6, seed=0, label=[1] * 6), by_number)
    mixed = model.sample_codes(3, seed=0, label=["owl", 1, "cat"])
    for row, label in enumerate((2, 1, 0)):
        assert torch.equal(mixed[row], model.sample_codes(3, seed=0, label=label)[row])
    assert not torch.equal(by_number, model.sample_codes(6, seed=0, label=0))


def test_labels_come_from_the_training_distribution(model: AnytimeModel) -> None:
    n = 1000
    codes = model.sample_codes(n, codes=1, seed=0)
    labels = model.plan(n, seed=0)[0].labels
    assert labels is not None
    share = torch.bincount(labels, minlength=3) / n
    assert (share - torch.tensor(FREQUENCIES)).abs().max() < 0.05
    fewer = model.plan(5, seed=0)[0].labels
    assert fewer is not None
    assert torch.equal(fewer, labels[:5])
    given = model.sample_codes(n, codes=1, seed=0, label=labels.tolist())
    assert torch.equal(given, codes)  # a label takes nothing from the stream of the codes


def test_stream_previews_every_code_and_ends_with_the_sample(model: AnytimeModel) -> None:
    options: dict[str, Any] = {"seed": 4, "label": "owl", "guidance": 1.5, "top_k": 5}
    previews = list(model.stream(3, **options))
    assert [preview.codes_drawn for preview in previews] == list(range(1, L + 1))
    for preview in previews:
        prefix = model.sample_codes(3, codes=preview.codes_drawn, **options)
        assert torch.equal(preview.codes, prefix)
        torch.testing.assert_close(preview.data, model.decode(prefix))
    torch.testing.assert_close(previews[-1].data, model.sample(3, **options))
    assert [p.codes_drawn for p in model.stream(3, codes=2, seed=4)] == [1, 2]


def test_previews_are_independent_values(model: AnytimeModel) -> None:
    stream = model.stream(2, seed=0)
    first = next(stream)
    first.codes.fill_(0)  # whatever a caller does to it
    *_, last = stream
    assert torch.equal(last.codes, model.sample_codes(2, seed=0))


def test_stream_is_lazy_and_stops_when_closed(model: AnytimeModel, steps: list[list[int]]) -> None:
    stream = model.stream(2, seed=0)
    assert steps == []
    next(stream)
    assert len(steps) == 1
    next(stream)
    assert len(steps) == 2
    assert isinstance(stream, Iterator)
    stream.close()  # type: ignore[attr-defined]
    assert next(stream, None) is None
    assert len(steps) == 2


def test_a_budget_costs_no_more_than_its_codes(model: AnytimeModel, steps: list[list[int]]) -> None:
    model.sample(4, codes=3, seed=0)
    assert steps == [[k] * 4 for k in range(3)]


def test_interleaved_streams(model: AnytimeModel) -> None:
    first, second = model.stream(3, seed=0), model.stream(5, seed=1, guidance=2.0)
    for one, two in zip(first, second, strict=True):
        last = one.codes, two.codes
    assert torch.equal(last[0], model.sample_codes(3, seed=0))
    assert torch.equal(last[1], model.sample_codes(5, seed=1, guidance=2.0))


def test_models_sample_in_evaluation_mode(model: AnytimeModel) -> None:
    assert model.prior is not None
    assert not model.prior.training
    assert not model.autoencoder.training
    assert not model.sample(1, seed=0).requires_grad


def test_nll_are_what_the_prior_pays(model: AnytimeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = model.sample_codes(5, seed=0)
    labels = torch.tensor([0, 1, 2, 0, 1])
    prior = model.prior
    assert prior is not None
    with torch.no_grad():
        chances = prior(codes, labels).softmax(-1)
        unlabelled = prior(codes).softmax(-1)
    expected = -chances.gather(2, codes[..., None])[..., 0].log()
    monkeypatch.setattr(sampling_model, "MAX_LOGITS", 2 * L * V)  # two rows at a time
    found = model.nll(codes, label=["cat", 1, "owl", 0, "dog"])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model.nll(codes[:, :3], label=labels.tolist()), expected[:, :3])
    expected = -unlabelled.gather(2, codes[..., None])[..., 0].log()
    torch.testing.assert_close(model.nll(codes), expected)


def test_nll_of_what_cannot_be_asked(model: AnytimeModel) -> None:
    codes = model.sample_codes(2, seed=0)
    with pytest.raises(InputError, match="label 'fox' is unknown"):
        model.nll(codes, label="fox")
    with pytest.raises(InputError, match="3 labels were given for 2 samples"):
        model.nll(codes, label=[0, 1, 2])
    with pytest.raises(InputError, match=r"code 8 at row 0"):
        model.nll(codes * 0 + V)
    with pytest.raises(InputError, match="has no prior to ask"):
        build_model(with_prior=False).nll(codes)


def test_a_draw_may_begin_anywhere_in_a_seed(model: AnytimeModel) -> None:
    whole = model.sample_codes(9, seed=5)
    assert torch.equal(model.sample_codes(4, seed=5, first=3), whole[3:7])
    part = model.generate(2, seed=5, first=6, codes=2)
    assert torch.equal(part.state.refine().codes, whole[6:8])
