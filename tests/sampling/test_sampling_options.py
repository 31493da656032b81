"""Options that a draw refuses, models without labels or prior, and bad codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from sampling_models import ONE_KIND, V, build_model, sample_shape, tiny_bundle

import anytime_ar.sampling.model as sampling_model
from anytime_ar.bundle.card import Card
from anytime_ar.errors import InputError
from anytime_ar.prior.sampling_params import SamplingParams
from anytime_ar.sampling import AnytimeModel, SampleKwargs

BAD: list[tuple[dict[str, Any], str]] = [
    ({"codes": 0}, r"codes=0 is no number of codes; pass a whole one from 1"),
    ({"codes": 7}, r"codes=7 is outside 1..6, this model's code length"),
    ({"first": -1}, "first=-1 is no sample's number; pass one from 0"),
    ({"codes": 1.5}, r"codes=1.5 is no number of codes"),
    ({"seed": -1}, r"seed -1 is outside"),
    ({"label": 3}, r"label 3 is unknown; pass a number in 0..2, or one of cat, dog, owl"),
    ({"label": -1}, r"label -1 is unknown"),
    ({"label": "cow"}, r"label 'cow' is unknown"),
    ({"label": ["cat", "cow"]}, r"label 'cow' is unknown"),
    ({"label": [0]}, r"1 labels were given for 2 samples; pass one, or 2"),
    ({"label": [0, 1, 2]}, r"3 labels were given for 2 samples"),
    ({"temperature": -1.0}, r"sample: temperature: .*got -1.0"),
    ({"top_k": 0, "top_p": 2.0}, r"top_k: .*got 0.*; top_p: .*got 2.0"),
]


@ONE_KIND
@pytest.mark.parametrize(("options", "message"), BAD)
@pytest.mark.parametrize("method", ["sample", "sample_codes", "stream"])
def test_bad_options_fail_at_the_call(
    model: AnytimeModel, steps: list[list[int]], method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        getattr(model, method)(2, **options)  # of a stream, no item was asked for
    assert steps == []


@ONE_KIND
@pytest.mark.parametrize("method", ["sample", "sample_codes", "stream"])
def test_unknown_options_are_refused(model: AnytimeModel, method: str) -> None:
    message = (
        "unknown option cods, sed; the options are "
        "codes, deadline_s, quality, cancel, min_codes, budget, label, conditions, "
        "seed, first, temperature, top_k, top_p, guidance, condition_guidance, fixed_codes, "
        "candidates, candidate_codes, candidate_scorer"
    )
    with pytest.raises(TypeError, match=message):
        getattr(model, method)(2, cods=3, sed=0)


@ONE_KIND
@pytest.mark.parametrize("option", ["precision", "backend"])
def test_unknown_ways_to_draw_are_refused(option: str) -> None:
    with pytest.raises(InputError, match=f"^{option}='foo' is unknown; pass one of .*auto"):
        AnytimeModel(tiny_bundle(), device="cpu", **{option: "foo"})  # type: ignore[arg-type]


def test_no_samples(model: AnytimeModel) -> None:
    with pytest.raises(InputError, match="cannot draw 0 samples; pass n >= 1"):
        model.sample(0)


def test_a_model_may_have_its_own_way_to_choose_codes(model: AnytimeModel) -> None:
    usual = SamplingParams(temperature=0.5, guidance=2.0)
    card = model.bundle.card.model_copy(update={"sampling_params": usual})
    own = AnytimeModel(replace(model.bundle, card=card), device="cpu")
    plain = model.sample_codes(9, seed=0)
    assert not torch.equal(own.sample_codes(9, seed=0), plain)
    expected = model.sample_codes(9, seed=0, temperature=0.5, guidance=2.0)
    assert torch.equal(own.sample_codes(9, seed=0), expected)
    assert torch.equal(own.generate(9, seed=0, codes=2).state.refine().codes, expected)
    some = model.sample_codes(9, seed=0, temperature=0.9, guidance=2.0)  # one of the two
    assert torch.equal(own.sample_codes(9, seed=0, temperature=0.9), some)
    assert torch.equal(own.sample_codes(9, seed=0, temperature=1.0, guidance=1.0), plain)


@pytest.mark.parametrize(
    ("several", "one"),
    [({"temperature": [0.0, 0.0]}, {"temperature": 0.0}), ({"top_p": (0.4, 0.4)}, {"top_p": 0.4})],
)
def test_a_choice_may_depend_on_the_position(
    model: AnytimeModel, several: SampleKwargs, one: SampleKwargs
) -> None:
    assert torch.equal(
        model.sample_codes(9, seed=0, **several), model.sample_codes(9, seed=0, **one)
    )


def test_a_choice_goes_from_its_first_value_to_its_last(model: AnytimeModel) -> None:
    rising = model.sample_codes(64, seed=0, temperature=[0.0, 4.0])
    assert torch.equal(rising[:, 0], model.sample_codes(64, seed=0, temperature=0)[:, 0])
    part = model.generate(64, seed=0, temperature=[0.0, 4.0], codes=3).state
    assert torch.equal(part.refine().codes, rising)
    falling = model.generate(64, seed=0, temperature=[4.0, 4.0, 0.0]).codes
    assert torch.equal(falling[:, :3], model.sample_codes(64, seed=0, temperature=4.0)[:, :3])
    assert not torch.equal(falling, model.sample_codes(64, seed=0, temperature=4.0))


def test_guidance_of_a_model_needs_labels(model: AnytimeModel) -> None:
    values = model.bundle.card.model_dump()
    values["data"] |= {"labels": None, "label_frequencies": None}
    values["sampling_params"] |= {"guidance": 2.0}
    with pytest.raises(
        InputError, match=r"sampling_params: guidance 2\.0 was given, but this model has no labels"
    ):
        Card.parse(values, origin="test")


def test_without_labels(unconditional: AnytimeModel) -> None:
    assert unconditional.labels is None
    assert unconditional.sample(2, seed=0, guidance=1.0).shape == (2, *sample_shape())
    with pytest.raises(InputError, match="label 1 was given, but this model has no labels"):
        unconditional.sample(2, label=1)
    with pytest.raises(InputError, match=r"guidance 3\.0 was given, but this model has no labels"):
        unconditional.sample(2, guidance=3.0)


def test_without_prior() -> None:
    model = build_model(with_prior=False)
    assert not model.can_sample
    codes = model.encode(torch.zeros(2, *sample_shape()))
    assert model.decode(codes[:, :1]).shape == (2, *sample_shape())
    with pytest.raises(InputError, match="model 'tiny' has no prior to sample from"):
        model.sample(2)
    with pytest.raises(InputError, match="has no prior"):
        model.stream(2)


def test_bad_codes_are_named_by_their_row_in_the_whole_batch(
    model: AnytimeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_model, "MAX_ROWS", 2)
    codes = torch.zeros(5, 3, dtype=torch.int64)
    codes[4, 1] = V
    with pytest.raises(InputError, match="code 8 at row 4, position 1"):
        model.decode(codes)
    with pytest.raises(InputError, match=r"shape \[\]"):
        model.decode(torch.tensor(1))
