"""Evaluation and model card of a model whose positions have vocabularies of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluation_fakes import FakeSplit, FakeSplits

import anytime_ar as aar
from anytime_ar.codes import bits, random_codes
from anytime_ar.evaluation import Curve, evaluate
from anytime_ar.evaluation.plots import plot_code_usage
from anytime_ar.publishing import model_card
from mixed_models import SIZES, L, Mixed, own_prior


def test_bits_are_those_of_each_vocabulary(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = Mixed().decode(random_codes(SIZES, (400, L), generator))
    splits = FakeSplits(FakeSplit(images[:100], None), FakeSplit(images[100:], None))
    model = aar.AnytimeModel.from_parts(Mixed(), own_prior(), name="mixed", device="cpu")
    curve = evaluate(model, splits, None, samples=20, codes=[1, 3, L])
    assert [point.bits for point in curve.points] == [bits(k, SIZES) for k in (1, 3, L)]
    assert [point.used_fraction for point in curve.codebook_usage] == [1.0] * L
    assert curve.vocabulary == SIZES
    assert curve.nll_test is not None
    with pytest.raises(ValueError, match="5 vocabularies were given for 6 codes"):
        Curve(**dict(curve) | {"vocabulary": SIZES[:5]})
    assert plot_code_usage(curve)
    model.bundle = replace(model.bundle, curve=curve)
    model.save(tmp_path / "model")
    loaded = aar.load(tmp_path / "model", device="cpu")
    assert loaded.curve == curve
    card = model_card(loaded.bundle, "me/mixed", figures=(), license=None)
    assert f"- vocabulary V: 3 to 40, by position\n- bits: {bits(L, SIZES):.0f}" in card
