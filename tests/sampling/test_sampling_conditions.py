"""Samples under conditions beside the label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sampling_models import CARDS, FREQUENCIES, LABELS, L

from anytime_ar.bundle.card import Card
from anytime_ar.errors import InputError
from anytime_ar.prior import Backend, Prior
from anytime_ar.sampling import AnytimeModel, load
from random_models import random_bundle

CONDITIONS: dict[str, Any] = {
    "style": {"kind": "class", "names": ["flat", "round"]},
    "voice": {"kind": "vector", "width": 2},
    "text": {"kind": "text", "words": ["cloud", "key", "lock"], "max_tokens": 3},
}
GIVEN: dict[str, Any] = {"style": "round", "voice": [0.5, -1.0], "text": "cloud lock"}
PARAMS: list[dict[str, Any]] = [
    {},
    {"guidance": 2.0},
    {"condition_guidance": {"text": 3.0, "label": (2.0, 0.5)}},
    {"guidance": 1.5, "condition_guidance": {"style": 2.0}, "top_k": 5},
]


def card(**changes: Any) -> Card:
    values = CARDS["images"] | changes
    data = values["data"] | {"name": "none", "conditions": CONDITIONS}
    data |= {"labels": LABELS, "label_frequencies": FREQUENCIES}
    return Card.parse(values | {"name": "tiny", "data": data}, origin="test")


@pytest.fixture(scope="session", autouse=True)
def kind() -> str:
    """Only our prior takes conditions."""
    return "images"


@pytest.fixture(scope="module")
def model() -> AnytimeModel:
    return AnytimeModel(random_bundle(card()))


@pytest.mark.parametrize("options", PARAMS)
def test_each_sample_is_drawn_as_alone(model: AnytimeModel, options: dict[str, Any]) -> None:
    given = {
        "style": ["flat", None, 1, "round"],
        "text": ["key", "cloud lock", None, ""],
        "voice": [None, [1.0, 2.0], [0.0, 0.0], None],
    }
    together = model.sample_codes(4, seed=1, conditions=given, **options)
    for i in range(4):
        own = {name: [values[i]] for name, values in given.items()}
        alone = model.sample_codes(1, seed=1, first=i, conditions=own, **options)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("options", PARAMS)
def test_backends_draw_the_same(options: dict[str, Any]) -> None:
    backends: tuple[Backend, ...] = ("auto", "portable")
    drawn = [
        AnytimeModel(random_bundle(card()), backend=backend).sample_codes(
            8, seed=0, conditions=GIVEN, **options
        )
        for backend in backends
    ]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", GIVEN)
def test_conditions_and_their_guidance_matter(model: AnytimeModel, name: str) -> None:
    drawn = [
        model.sample_codes(16, seed=0, label=1, conditions=GIVEN, **options)
        for options in ({}, {"condition_guidance": {name: 4.0}}, {"guidance": 4.0})
    ]
    without = {one: value for one, value in GIVEN.items() if one != name}
    drawn.append(model.sample_codes(16, seed=0, label=1, conditions=without))
    assert len({codes.numpy().tobytes() for codes in drawn}) == 4


def test_guidance_of_what_is_not_given_changes_nothing(model: AnytimeModel) -> None:
    usual = model.sample_codes(8, seed=0, temperature=0, conditions={"style": 0})
    guided = model.sample_codes(
        8, seed=0, temperature=0, conditions={"style": 0}, condition_guidance={"text": 3.0}
    )
    assert torch.equal(usual, guided)


@pytest.mark.parametrize("options", PARAMS)
def test_states_keep_conditions(
    model: AnytimeModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole = model.generate(3, seed=2, conditions=GIVEN, **options)
    early = model.generate(3, seed=2, conditions=GIVEN, codes=2, **options)
    early.state.save(tmp_path / "state")
    later = model.load_state(tmp_path / "state").refine()
    assert torch.equal(later.codes, whole.codes)
    assert torch.equal(early.state.refine().codes, whole.codes)


@pytest.mark.parametrize(
    "change",
    [
        {"condition.text": torch.tensor([[4, 0, 0]])},
        {"condition.style": torch.tensor([0, 0])},
        {"condition.other": torch.tensor([0])},
        {"condition.text": None},
    ],
)
def test_states_with_other_conditions_are_refused(
    model: AnytimeModel, tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    model.generate(1, seed=2, conditions=GIVEN, codes=2).state.save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors |= change
    save_file({name: one for name, one in tensors.items() if one is not None}, path, metadata)
    monkeypatch.setattr("anytime_ar.sampling.result._StateHeader.sha256", None, raising=False)
    with pytest.raises(InputError, match=r"was altered|conditions that are not those"):
        model.load_state(path)


def test_variations_keep_conditions(model: AnytimeModel) -> None:
    first = model.generate(1, seed=0, label=1, conditions=GIVEN)
    plan, _ = model.plan_variation(first, keep=2, n=3, seed=5)
    same = model.plan(3, seed=5, label=1, conditions=GIVEN, fixed_codes=first.codes[:, :2])[0]
    assert plan.conditions is not None
    assert same.conditions is not None
    for name, rows in same.conditions.items():
        assert torch.equal(plan.conditions[name], rows)
    assert torch.equal(
        model.vary(first, keep=2, n=3, seed=5).codes,
        model.sample_codes(
            3, seed=5, label=1, conditions=GIVEN, fixed_codes=first.codes[:, :2].repeat(3, 1)
        ),
    )


def test_candidates_have_the_conditions_of_their_sample(model: AnytimeModel) -> None:
    given = {"style": ["flat", "round"], "text": ["key", None]}
    together = model.sample_codes(2, seed=1, candidates=3, conditions=given)
    for i in range(2):
        own = {name: [values[i]] for name, values in given.items()}
        alone = model.sample_codes(1, seed=1, first=i, candidates=3, conditions=own)
        assert torch.equal(alone[0], together[i])


def test_bundles_keep_conditions(model: AnytimeModel, tmp_path: Path) -> None:
    model.save(tmp_path / "bundle")
    again = load(tmp_path / "bundle")
    assert again.conditions == model.conditions
    options: dict[str, Any] = {"seed": 0, "conditions": GIVEN, "guidance": 2.0}
    assert torch.equal(again.sample_codes(4, **options), model.sample_codes(4, **options))
    assert isinstance(model.prior, Prior)
    parts = AnytimeModel.from_parts(model.autoencoder, model.prior, labels=LABELS)
    assert parts.conditions == model.conditions


def test_the_likelihood_is_that_under_the_conditions(model: AnytimeModel) -> None:
    codes = model.sample_codes(4, seed=0, conditions=GIVEN)
    given, usual = model.nll(codes, conditions=GIVEN), model.nll(codes)
    assert given.shape == usual.shape == (4, L)
    assert not torch.allclose(given, usual)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditions": {"colour": 1}}, "condition 'colour' is unknown"),
        ({"conditions": {"text": "chain"}}, "unknown words"),
        ({"condition_guidance": {"colour": 2.0}}, "condition_guidance names 'colour', and this"),
        ({"condition_guidance": {"text": 101.0}}, "must be 0..100"),
    ],
)
def test_mistakes_are_named_before_anything_is_drawn(
    model: AnytimeModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        model.sample(1, **options)
    assert message in str(caught.value)


def test_models_without_conditions_take_none() -> None:
    plain = card().model_copy(update={"data": card().data.model_copy(update={"conditions": {}})})
    model = AnytimeModel(random_bundle(plain))
    with pytest.raises(InputError, match="this model has no conditions; drop it"):
        model.sample(1, conditions=GIVEN)
    with pytest.raises(InputError, match="this model has label; drop it"):
        model.sample(1, condition_guidance={"text": 2.0})
    assert model.sample_codes(1, condition_guidance={"label": 2.0}).shape == (1, L)
