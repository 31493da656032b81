"""Codes that are given: every other code of a sample is drawn as usual, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sampling_models import L, V, build_model, record_steps
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel, DecodeBatch

N = 5
FIXED = torch.full((N, L), -1)
FIXED[:, 2] = torch.arange(N) % V
FIXED[1, 0], FIXED[2, 5] = 3, 7
FIXED[3] = torch.arange(L)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"guidance": 2.0},
    {"guidance": (3.0, 1.0), "top_p": 0.9},
    {"temperature": 0},
]


def reference(model: AnytimeModel, fixed: Tensor, **options: Any) -> Tensor:
    """Codes drawn one at a time: each next code by a draw that goes on from those so far."""
    plan, _ = model.plan(len(fixed), **options)
    codes = torch.empty(len(fixed), 0, dtype=torch.int64)
    for position in range(L):
        batch = DecodeBatch(model.sampler.decoder, plan.num_slots)
        before = codes if position else None
        rows = batch.add(plan.noise, plan.labels, plan.sampling_params, before)
        batch.step()
        drawn = batch.codes(rows)[:, -1]
        now = fixed[:, position]
        codes = torch.cat([codes, now.where(now >= 0, drawn)[:, None]], dim=1)
    return codes


@pytest.mark.parametrize("options", OPTIONS)
def test_the_rest_is_drawn_given_the_fixed_codes(
    model: AnytimeModel, options: dict[str, Any]
) -> None:
    drawn = model.sample_codes(N, seed=0, label=1, fixed_codes=FIXED, **options)
    assert torch.equal(drawn, reference(model, FIXED, seed=0, label=1, **options))
    assert not torch.equal(drawn, model.sample_codes(N, seed=0, label=1, **options))


def test_nothing_fixed_is_the_usual_draw(model: AnytimeModel) -> None:
    usual = model.sample_codes(N, seed=3)
    for nothing in (None, [-1], [[-1, -1]] * N, torch.full((N, L), -1)):
        assert torch.equal(model.sample_codes(N, seed=3, fixed_codes=nothing), usual)


def test_own_codes_fixed_leave_the_sample_as_it_is(model: AnytimeModel) -> None:
    """A fixed code takes no random number of another position."""
    usual = model.sample_codes(N, seed=3)
    for positions in ([0], [1, 4], [0, 1, 2], [5], list(range(L))):
        fixed = torch.full((N, L), -1)
        fixed[:, positions] = usual[:, positions]
        assert torch.equal(model.sample_codes(N, seed=3, fixed_codes=fixed), usual)


def test_all_codes_fixed_are_returned(model: AnytimeModel) -> None:
    codes = torch.randint(V, (N, L), generator=torch.Generator().manual_seed(0))
    result = model.generate(N, seed=1, fixed_codes=codes)
    assert torch.equal(result.codes, codes)
    assert torch.equal(result.data, model.decode(codes))
    assert result.stop_reason == "complete"
    assert torch.equal(result.state.refine().codes, codes)


def test_each_sample_is_the_same_in_every_batch(
    model: AnytimeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.sample_codes(N, seed=0, label=1, fixed_codes=FIXED)
    for i in range(N):
        alone = model.sample_codes(1, seed=0, first=i, label=1, fixed_codes=FIXED[i])
        assert torch.equal(alone[0], whole[i])
    monkeypatch.setattr(type(model.sampler), "max_rows", lambda *_: 2)
    assert torch.equal(model.sample_codes(N, seed=0, label=1, fixed_codes=FIXED), whole)


def test_rows_with_and_without_fixed_codes_share_a_batch(model: AnytimeModel) -> None:
    """Rows join at other times and leave, so that slots move; one of them is guided."""
    batch = DecodeBatch(model.sampler.decoder, 8)
    plain = model.plan(1, seed=1, label=0)[0]
    fixed = model.plan(2, seed=2, label=1, fixed_codes=[-1, 4, -1, -1, 2])[0]
    guided = model.plan(1, seed=3, label=2, guidance=3.0, fixed_codes=[5])[0]

    def join(plan: Any) -> list[int]:
        return batch.add(plan.noise, plan.labels, plan.sampling_params, None, plan.fixed_codes)

    def draw(rows: list[int]) -> Tensor:
        while batch.codes_drawn(rows[0]) < L:
            batch.step()
        codes = batch.codes(rows)
        batch.remove(rows)
        return codes

    first = join(plain)
    batch.step()
    second = join(fixed)
    batch.step()
    third = join(guided)
    assert torch.equal(draw(first), model.sample_codes(1, seed=1, label=0))
    expected = model.sample_codes(2, seed=2, label=1, fixed_codes=[-1, 4, -1, -1, 2])
    assert torch.equal(draw(second), expected)
    again = join(plain)  # takes a slot that had fixed codes
    expected = model.sample_codes(1, seed=3, label=2, guidance=3.0, fixed_codes=[5])
    assert torch.equal(draw(third), expected)
    assert torch.equal(draw(again), model.sample_codes(1, seed=1, label=0))


def test_streams_and_refinement_keep_what_is_fixed(model: AnytimeModel, tmp_path: Path) -> None:
    whole = model.sample_codes(N, seed=0, fixed_codes=FIXED)
    for preview in model.stream(N, seed=0, fixed_codes=FIXED):
        assert torch.equal(preview.codes, whole[:, : preview.codes_drawn])
    state = model.generate(N, seed=0, codes=1, fixed_codes=FIXED).state
    state.save(tmp_path / "state")
    assert torch.equal(state.refine(codes=4).codes, whole[:, :4])
    assert torch.equal(state.refine().codes, whole)  # from the codes, without the batch
    assert torch.equal(model.load_state(tmp_path / "state").refine().codes, whole)


def test_a_state_without_fixed_codes_is_written_as_before(
    model: AnytimeModel, tmp_path: Path
) -> None:
    model.generate(2, seed=0, codes=1).state.save(tmp_path / "state")
    with safe_open(tmp_path / "state", framework="pt") as file:
        assert set(file.keys()) <= {"codes", "labels"}
        assert '"format_version":2' in file.metadata()["anytime_ar_state"]


def test_a_state_that_contradicts_its_fixed_codes_is_refused(
    model: AnytimeModel, tmp_path: Path
) -> None:
    from anytime_ar.sampling.result import _sha256

    state = model.generate(2, seed=0, codes=3, fixed_codes=[1, -1, 2]).state
    state.save(tmp_path / "state")
    with safe_open(tmp_path / "state", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata()["anytime_ar_state"]
    before = _sha256(tensors)
    tensors["codes"][0, 2] = 3
    header = header.replace(before, _sha256(tensors))
    save_file(tensors, tmp_path / "state", metadata={"anytime_ar_state": header})
    with pytest.raises(InputError, match="contradicts itself: its codes are not those"):
        model.load_state(tmp_path / "state")


def test_a_common_beginning_is_prefilled_in_one_pass(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model()
    fixed = [3, 1, 4, -1, 5]
    whole = model.sample_codes(N, seed=0, fixed_codes=fixed)
    steps = record_steps(monkeypatch, model)
    monkeypatch.setattr(model.sampler.decoder, "one_pass_prefill", True)
    assert torch.equal(model.sample_codes(N, seed=0, fixed_codes=fixed), whole)
    assert steps == [[3] * N, [4] * N, [5] * N]
    steps.clear()
    assert torch.equal(model.sample_codes(N, seed=0, codes=2, fixed_codes=fixed), whole[:, :2])
    assert steps == []
    assert kind


def test_a_deadline_counts_fixed_codes(model: AnytimeModel) -> None:
    fixed = [3, 1, 4, -1, 5]
    result = model.generate(2, seed=0, deadline_s=60.0, fixed_codes=fixed)
    assert torch.equal(result.codes, model.sample_codes(2, seed=0, fixed_codes=fixed))


BAD: list[tuple[Any, str]] = [
    ([V], rf"fixed_codes: code {V} at row 0, position 0 is out of range.* 0..{V - 1}; pass -1 for"),
    ([[0], [-2]], "fixed_codes: code -2 at row 1, position 0 is out of range"),
    ([0] * (L + 1), f"fixed_codes: prefix {L + 1} exceeds code length {L}"),
    ([[0]] * 3, "fixed_codes has 3 rows for 2 samples; pass one row for all, or 2"),
    ([0.5], "codes are float64; pass whole numbers"),
    (torch.tensor([True]), "fixed_codes: codes are torch.bool"),
    ([], "codes are float64"),
    ([[1], [1, 2]], "codes are no array"),
    ({2: 1}, "codes are object"),
    (3, r"fixed_codes: codes have shape \[\]"),
]


@pytest.mark.parametrize(("fixed", "message"), BAD)
@pytest.mark.parametrize("method", ["sample", "sample_codes", "generate", "stream"])
def test_bad_fixed_codes_fail_at_the_call(
    model: AnytimeModel, steps: list[list[int]], method: str, fixed: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        getattr(model, method)(2, fixed_codes=fixed)
    assert steps == []
