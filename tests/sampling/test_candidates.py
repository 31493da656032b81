"""Several beginnings of each sample, of which the best is continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_models import L, V
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel, uniform_noise

N, C, M = 4, 3, 2


def beginnings(model: AnytimeModel, **options: Any) -> Tensor:
    """The codes of all beginnings, drawn as samples of their own: int64 [N, C, M]."""
    plan, _ = model.plan(N, **options)
    further = uniform_noise(plan.seed, range(N), 1 + L + (C - 1) * M)[:, 1 + L :]
    drawn = []
    for i in range(N):
        for c in range(C):
            own = model.plan(1, **options)[0]
            own.noise[:] = plan.noise[i]
            if c:
                own.noise[0, :M] = further[i, (c - 1) * M : c * M]
            drawn.append(model.sampler.sample_codes(own, model.plan(1, codes=M)[1]))
    return torch.cat(drawn).view(N, C, M)


@pytest.mark.parametrize("options", [{}, {"guidance": 3.0}, {"temperature": 0.7}])
def test_the_likeliest_beginning_is_continued(model: AnytimeModel, options: dict[str, Any]) -> None:
    options |= {"seed": 0, "label": 1}
    several = beginnings(model, **options)
    nll = model.nll(several.flatten(0, 1), label=1).double().sum(1).view(N, C)
    best = several[range(N), nll.argmin(1)]
    assert len(nll.unique()) > 1
    codes = model.sample_codes(N, candidates=C, candidate_codes=M, **options)
    assert torch.equal(codes[:, :M], best)
    assert torch.equal(codes, model.sample_codes(N, fixed_codes=best, **options))


def test_a_sample_is_the_same_in_every_batch_and_budget(
    model: AnytimeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"seed": 5, "candidates": C, "candidate_codes": M}
    whole = model.sample_codes(N, **options)
    for i in range(N):
        assert torch.equal(model.sample_codes(1, first=i, **options)[0], whole[i])
    for result in model.stream(N, **options):
        assert torch.equal(result.codes, whole[:, : result.codes_drawn])
    first = model.generate(N, codes=M, **options)
    assert torch.equal(first.codes, whole[:, :M])
    first.state.save(tmp_path / "state")
    assert torch.equal(first.state.refine(codes=4).codes, whole[:, :4])
    assert torch.equal(model.load_state(tmp_path / "state").refine().codes, whole)
    assert torch.equal(model.generate(N, deadline_s=60.0, **options).codes, whole)
    monkeypatch.setattr(type(model.sampler), "max_rows", lambda *_: 3)
    assert torch.equal(model.sample_codes(N, **options), whole)


def test_one_candidate_is_the_usual_sample(model: AnytimeModel) -> None:
    usual = model.sample_codes(N, seed=0)
    assert torch.equal(model.sample_codes(N, seed=0, candidates=1), usual)


def test_a_scorer_chooses_by_codes_or_previews(model: AnytimeModel) -> None:
    options: dict[str, Any] = {"seed": 0, "label": 1, "candidates": C, "candidate_codes": M}
    several = beginnings(model, seed=0, label=1)

    def largest_code(codes: Tensor, data: Tensor) -> Tensor:
        assert data.shape == (len(codes), *model.sample_shape)
        assert torch.equal(data, model.decode(codes))
        return codes[:, 1] * V + codes[:, 0]

    codes = model.sample_codes(N, candidate_scorer=largest_code, **options)
    best = (several[..., 1] * V + several[..., 0]).argmax(1)
    assert torch.equal(codes[:, :M], several[range(N), best])
    for wrong in (lambda codes, data: data, lambda codes, data: codes[:, 0] * float("nan")):  # noqa: ARG005
        with pytest.raises(InputError, match=r"return one finite number for each beginning, \[12"):
            model.sample_codes(N, candidate_scorer=wrong, **options)


def test_fixed_codes_are_kept_and_variations_have_candidates(model: AnytimeModel) -> None:
    fixed = [3, -1, 5]
    codes = model.sample_codes(N, seed=0, fixed_codes=fixed, candidates=C, candidate_codes=3)
    assert (codes[:, [0, 2]] == torch.tensor([3, 5])).all()
    given = model.generate(1, seed=0, label=1)
    varied = model.vary(given, keep=4, n=N, seed=1, candidates=C).codes
    assert torch.equal(varied[:, :4], given.codes[:, :4].expand(N, -1))
    own = {"label": 1, "seed": 1, "fixed_codes": given.codes[:, :4]}
    expected = model.sample_codes(N, candidates=C, candidate_codes=4 + L // 4, **own)
    assert torch.equal(varied, expected)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"candidates": 0}, "candidates=0 is outside 1..64"),
    ({"candidates": 65}, "candidates=65 is outside 1..64"),
    ({"candidates": 2, "candidate_codes": 7}, "candidate_codes=7 is outside 1..6"),
    ({"candidates": 2, "candidate_codes": 0}, "candidate_codes=0 is outside 1..6"),
    ({"candidate_codes": 2}, "there is one candidate to choose among; pass candidates=2"),
    (
        {"candidates": 2, "candidate_codes": 3, "codes": 2},
        "candidates have beginnings of 3 codes, and the budget allows 2",
    ),
    (
        {"candidates": 2, "candidate_codes": 2, "fixed_codes": [[1, 2], [1, -1]]},
        "a sample has all 2 codes of its beginning fixed; raise candidate_codes",
    ),
]


@pytest.mark.parametrize(("options", "message"), BAD)
@pytest.mark.parametrize("method", ["sample_codes", "stream"])
def test_bad_candidates_fail_at_the_call(
    model: AnytimeModel, steps: list[list[int]], method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        getattr(model, method)(2, **options)
    assert steps == []
