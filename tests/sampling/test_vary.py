"""Variations: the first codes of a sample are kept, and the others drawn anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_models import L, V, tiny_bundle

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel


@pytest.mark.parametrize("keep", [0, 1, 4, L])
def test_first_codes_are_kept_and_the_others_are_a_draw(model: AnytimeModel, keep: int) -> None:
    given = model.generate(2, seed=0, label=[0, 2])
    varied = model.vary(given, keep=keep, n=3, seed=1)
    kept = given.codes[:, :keep].repeat_interleave(3, 0)
    assert torch.equal(varied.codes[:, :keep], kept)
    labels = [0, 0, 0, 2, 2, 2]
    fixed = {"fixed_codes": kept} if keep else {}
    assert torch.equal(varied.codes, model.sample_codes(6, seed=1, label=labels, **fixed))
    assert torch.equal(varied.data, model.decode(varied.codes))
    if keep < L:
        assert len(varied.codes.unique(dim=0)) > 2


def test_samples_codes_results_and_states_are_varied_alike(
    model: AnytimeModel, tmp_path: Path
) -> None:
    given = model.generate(2, seed=0, label=1, codes=5)
    given.state.save(tmp_path / "state")
    expected = model.vary(given, keep=2, seed=4).codes
    loaded = model.load_state(tmp_path / "state")
    for x in (given.state, loaded):
        assert torch.equal(model.vary(x, keep=2, seed=4).codes, expected)
    for x in (given.codes, given.codes.tolist(), given.codes.numpy()):
        assert torch.equal(model.vary(x, keep=2, seed=4, label=1).codes, expected)
    encoded = model.encode(given.data)
    from_data = model.vary(given.data, keep=3, seed=4, label=1).codes
    assert torch.equal(from_data, model.vary(encoded, keep=3, seed=4, label=1).codes)
    assert torch.equal(from_data[:, :3], encoded[:, :3])


def test_sampling_parameters_of_a_result_are_those_of_its_variations(model: AnytimeModel) -> None:
    given = model.generate(1, seed=0, label=1, guidance=3.0, temperature=0.5)
    own = {"label": 1, "seed": 2, "fixed_codes": given.codes[:, :2]}
    expected = model.sample_codes(4, guidance=3.0, temperature=0.5, **own)
    assert torch.equal(model.vary(given, keep=2, n=4, seed=2).codes, expected)
    expected = model.sample_codes(4, guidance=1.0, temperature=0.5, **own)
    assert torch.equal(model.vary(given, keep=2, n=4, seed=2, guidance=1.0).codes, expected)


def test_the_likeliest_label_is_that_of_samples_without_one(model: AnytimeModel) -> None:
    codes = model.sample_codes(8, seed=0)
    costs = torch.stack([model.nll(codes, label=i).double().sum(1) for i in range(3)], dim=1)
    labels = model.likeliest_labels(codes)
    assert labels.tolist() == [min(range(3), key=row.__getitem__) for row in costs.tolist()]
    assert len(labels.unique()) > 1
    expected = model.vary(codes, keep=1, seed=0, label=labels).codes
    assert torch.equal(model.vary(codes, keep=1, seed=0).codes, expected)


def test_a_model_without_labels_varies(unconditional: AnytimeModel) -> None:
    codes = unconditional.sample_codes(1, seed=0)
    varied = unconditional.vary(codes, keep=3, seed=1).codes
    assert torch.equal(varied[:, :3], codes[:, :3])
    with pytest.raises(InputError, match="has no labels"):
        unconditional.likeliest_labels(codes)


BAD: list[tuple[Any, dict[str, Any], str]] = [
    ([[0, 1]], {"keep": 3}, "keep=3 is outside 0..2, the codes of the sample"),
    ([[0, 1]], {"keep": -1}, "keep=-1 is outside 0..2"),
    ([[0, 1]], {"keep": 1.5}, "keep=1.5"),
    ([[0, 1]], {"keep": 1, "n": 0}, "cannot draw 0 variations"),
    ([[0, V]], {"keep": 1}, f"code {V} at row 0, position 1 is out of range"),
    ([[0, 1]], {"keep": 1, "label": [0, 1]}, "2 labels were given for 1 samples"),
    ([[0, 1]], {"keep": 1, "fixed_codes": [3]}, "call sample with fixed_codes to fix others"),
    (torch.empty(0, 2, dtype=torch.int64), {"keep": 1}, "there is no sample to vary"),
    (torch.zeros(1, 1, 3, 5), {"keep": 1}, "cannot encode"),
]


@pytest.mark.parametrize(("x", "options", "message"), BAD)
def test_what_cannot_be_varied_is_refused(
    model: AnytimeModel, steps: list[list[int]], x: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model.vary(x, **options)
    assert steps == []


def test_samples_of_another_model_are_refused(model: AnytimeModel) -> None:
    other = AnytimeModel(tiny_bundle(seed=1), device="cpu").generate(1, seed=0)
    with pytest.raises(InputError, match="these samples are of another model, 'tiny'"):
        model.vary(other, keep=1)
