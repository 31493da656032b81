"""`import anytime_ar as aar`: every public name is there, and names of 0.1 warn once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import anytime_ar as aar
from anytime_ar import legacy


@pytest.fixture(scope="module")
def model() -> aar.AnytimeModel:
    return aar.load("mnist")


@pytest.fixture(autouse=True)
def _nothing_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "_warned", set())


@pytest.mark.parametrize("name", aar.__all__)
def test_public_names(name: str) -> None:
    assert getattr(aar, name).__name__ == name
    assert name in dir(aar)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'novelty'"):
        aar.novelty  # noqa: B018


def test_a_stream_ends_with_the_result(model: aar.AnytimeModel) -> None:
    *previews, last = model.stream(2, seed=0, previews=[1, 4])
    assert [type(preview) for preview in previews] == [aar.Preview, aar.Preview]
    assert isinstance(last, aar.SampleResult)
    result = model.generate(2, seed=0)
    assert type(result) is type(result.state.refine()) is aar.SampleResult
    assert torch.equal(last.codes, result.codes)
    assert not hasattr(previews[0], "stop_reason")


@pytest.mark.parametrize(
    ("old", "value"),
    [
        ("model.draw", lambda model: model.draw(seed=0, codes=2).codes.shape),
        (
            "state.extend",
            lambda model: model.generate(codes=1).state.extend(codes=2).codes.shape,
        ),
        ("model.nats", lambda model: model.nats(model.sample_codes(1, codes=2)).shape),
    ],
)
def test_methods_of_0_1(model: aar.AnytimeModel, old: str, value: Callable[[Any], Any]) -> None:
    with pytest.warns(FutureWarning, match=f"{old} is called") as warned:
        assert value(model) == (1, 2)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert value(model) == (1, 2)


def test_least_deadline_and_stopped_by(model: aar.AnytimeModel) -> None:
    with pytest.warns(FutureWarning, match="model.least_deadline_s is called"):
        assert model.least_deadline_s() == model.min_deadline_s(1) > 0
    with pytest.warns(FutureWarning, match="result.stopped_by is called"):
        assert model.generate(1, codes=2).stopped_by == "complete"
    assert next(model.stream(1)).stopped_by is None


def test_data_names_of_0_1() -> None:
    from anytime_ar.data import DataConfig, load_data, read_image  # noqa: F401

    with pytest.warns(FutureWarning, match="Recording is called"):
        from anytime_ar.data import Recording
    from anytime_ar.data import AudioFile

    assert Recording is AudioFile  # type: ignore[comparison-overlap]


def test_length_of_a_recording_of_0_1() -> None:
    from anytime_ar.media.audio import LengthAndPeak

    with pytest.warns(FutureWarning, match="LengthAndPeak.samples is called"):
        assert LengthAndPeak(7, 0.5).samples == 7
