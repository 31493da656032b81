"""Sounds of any length, by continuation of windows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from sampling_models import Kind, L, build_model

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel
from anytime_ar.sampling.continuation import carry_over, long_codes, windows_of

T = 48
"""Samples of a window."""
SOUNDS = ("sounds", "a neural codec")


@pytest.fixture(scope="module")
def sounds(kind: str) -> AnytimeModel:
    if kind not in SOUNDS:
        pytest.skip("no sounds")
    return build_model()


def shares(model: AnytimeModel) -> tuple[int, int]:
    """Parts of a window, and samples of one of them."""
    segments = model.autoencoder.time_segments
    assert segments is not None
    return segments, T // segments


def test_codes_of_the_end_begin_the_next_window() -> None:
    codes = torch.arange(10)[None]  # levels of 4 parts: 0 1 2 3 | 4 5 6 7 | 8 9
    assert carry_over(codes, 4, 1).tolist() == [[3, -1, -1, -1, 7, -1, -1, -1, -1, -1]]
    assert carry_over(codes, 4, 2).tolist() == [[2, 3, -1, -1, 6, 7, -1, -1, -1, -1]]
    assert carry_over(codes[:, :3], 4, 2).tolist() == [[2, -1, -1]]


@pytest.mark.parametrize("codes", [None, 3])
def test_windows_share_their_codes(sounds: AnytimeModel, codes: int | None) -> None:
    segments, _ = shares(sounds)
    drawn = [*long_codes(sounds, 3, 4, 1, {"seed": 0, "label": 1, "codes": codes})]
    assert torch.equal(drawn[0], sounds.sample_codes(3, seed=0, label=1, codes=codes))
    for one, following in pairwise(drawn):
        given = carry_over(one, segments, 1)
        assert (given >= 0).any()
        assert torch.equal(following[given >= 0], given[given >= 0])
        assert not torch.equal(one, following)


@pytest.mark.parametrize("options", [{}, {"codes": 4, "guidance": 2.0}, {"temperature": 0}])
def test_long_sounds_are_their_windows(sounds: AnytimeModel, options: dict[str, Any]) -> None:
    segments, part = shares(sounds)
    hop, count = T - part, 3
    seconds = (part + count * hop) / 1000
    x = sounds.sample_long(seconds, 2, seed=5, **options)
    assert x.shape == (2, 1, part + count * hop)
    drawn = [*long_codes(sounds, 2, count, 1, {"seed": 5, **options})]
    for number, codes in enumerate(drawn):
        begin = number * hop
        own = sounds.decode(codes)
        alone = slice(part if number else 0, hop)  # without what cross-fades
        torch.testing.assert_close(x[..., begin : begin + hop][..., alone], own[..., alone])
    for i in range(2):
        alone_row = sounds.sample_long(seconds, 1, seed=5, first=i, **options)
        torch.testing.assert_close(alone_row[0], x[i])
    assert segments > 1


def test_parts_are_given_as_they_are_drawn(sounds: AnytimeModel) -> None:
    parts = sounds.stream_long(0.2, 2, seed=5)
    first = next(parts)
    assert first.shape[2] < T
    x = torch.cat([first, *parts], dim=2)
    assert x.shape == (2, 1, 200)
    assert torch.equal(x, sounds.sample_long(0.2, 2, seed=5))
    assert torch.equal(sounds.sample_long(0.03, 2, seed=5), sounds.sample(2, seed=5)[..., :30])


def test_mistakes_are_told_by_the_call(sounds: AnytimeModel) -> None:
    segments, _ = shares(sounds)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"seconds": 0.0}, "seconds=0.0 is no length"),
        ({"seconds": float("inf")}, "is no length"),
        ({"seconds": 1.0, "overlap": segments}, f"overlap={segments} is outside 1.."),
        ({"seconds": 1.0, "deadline_s": 1.0}, "deadline_s is for one window"),
        ({"seconds": 1.0, "label": "horse"}, "label 'horse' is unknown"),
        ({"seconds": 1.0, "codes": L + 1}, "codes"),
        ({"seconds": 1.0, "first": 2**40}, "too large for long samples"),
    ]
    for options, message in wrong:
        with pytest.raises(InputError) as caught:
            [*sounds.stream_long(**options)]
        assert message in str(caught.value)


def test_other_models_have_no_long_sounds() -> None:
    if Kind.name in SOUNDS:
        pytest.skip("sounds")
    model = build_model()
    with pytest.raises(InputError, match="has no sounds to continue; pass an audio model"):
        model.sample_long(1.0)
    with pytest.raises(InputError, match="codes that stand for whole samples"):
        windows_of(model, None)
