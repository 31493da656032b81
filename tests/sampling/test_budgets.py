"""Budgets: what they refuse, deadlines on a fake clock, quality, cancelling, and costs on disk."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_models import ONE_KIND, L, curve, sample_shape, tiny_bundle
from timed_models import TimedModel

from anytime_ar.errors import InputError
from anytime_ar.kernel import load_kernel
from anytime_ar.prior import NativePriorDecoder
from anytime_ar.sampling import AnytimeModel, Budget, Preview, SampleResult
from anytime_ar.sampling import sampler as engine
from anytime_ar.sampling.budget import codes_for_quality, quality_at_codes
from anytime_ar.sampling.cost_model import CostModel, CostModelStore, LatencyTracker, LatencyWindow

pytestmark = ONE_KIND


@pytest.fixture
def timed(tmp_path: Path) -> TimedModel:
    """10 ms a step, 5 ms a decode."""
    return TimedModel(tmp_path / "costs.json")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"codes": 0}, "codes=0 is no number of codes"),
    ({"codes": -1}, "codes=-1 is no number of codes"),
    ({"codes": 2.5}, "codes=2.5 is no number of codes"),
    ({"codes": True}, "codes=True is no number of codes"),
    ({"min_codes": 0}, "min_codes=0 is no number of codes"),
    ({"deadline_s": 0}, "deadline_s=0 is no time to draw in"),
    ({"deadline_s": -0.1}, "deadline_s=-0.1 is no time"),
    ({"deadline_s": math.nan}, "deadline_s=nan is no time"),
    ({"deadline_s": math.inf}, "deadline_s=inf is no time"),
    ({"quality": 0}, "quality=0 is no share"),
    ({"quality": 1.01}, r"quality=1.01 is no share of full quality; pass a number in \(0, 1\]"),
    ({"quality": math.nan}, "quality=nan is no share"),
    ({"cancel": True}, r"cancel=True has no is_set\(\)"),
]


@pytest.mark.parametrize(("limits", "message"), BAD)
def test_bad_limits(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Budget(**limits)


def test_limits_that_this_model_does_not_allow(model: AnytimeModel) -> None:
    with pytest.raises(InputError, match=r"codes=7 is outside 1..6"):
        model.generate(1, codes=7)
    with pytest.raises(InputError, match=r"min_codes=7 is outside 1..6"):
        model.generate(1, min_codes=7)
    with pytest.raises(InputError, match="min_codes=4 is more than codes=3; lower it"):
        model.generate(1, codes=3, min_codes=4)
    with pytest.raises(InputError, match="quality was not measured up to its full length"):
        model.generate(1, quality=0.9)


def test_a_budget_value_instead_of_its_parts(model: AnytimeModel) -> None:
    result = model.generate(2, seed=0, budget=Budget(codes=3))
    assert torch.equal(result.codes, model.sample_codes(2, seed=0, codes=3))
    with pytest.raises(InputError, match="a budget was given and codes beside it"):
        model.generate(2, budget=Budget(codes=3), codes=3)


@pytest.mark.parametrize(
    ("deadline_s", "codes"),
    [(0.0151, 1), (0.024, 1), (0.0251, 2), (0.0449, 3), (0.0451, 4), (0.066, 6), (9.0, 6)],
)
def test_a_deadline_buys_as_many_codes_as_fit(
    timed: TimedModel, deadline_s: float, codes: int
) -> None:
    timed.warm_up()
    begin = timed.clock()
    result = timed.generate(1, seed=0, deadline_s=deadline_s)
    assert timed.clock() - begin <= deadline_s
    assert result.elapsed_s == pytest.approx(timed.clock() - begin)
    assert result.codes_drawn == codes
    assert result.stop_reason == ("complete" if codes == L else "deadline")
    assert torch.equal(result.codes, timed.sample_codes(1, seed=0, codes=codes))


def test_a_deadline_below_the_floor_names_the_least_that_works(timed: TimedModel) -> None:
    with pytest.raises(InputError, match=r"deadline_s=0.014 is too short: 1 code of 1 sample take"):
        timed.generate(1, deadline_s=0.014)
    message = r"3 codes of 2 samples take 0.0350 s here at best; pass 0.044 or more"
    with pytest.raises(InputError, match=message):
        timed.generate(2, deadline_s=0.030, min_codes=3)
    assert timed.generate(2, deadline_s=0.0351, min_codes=3).codes_drawn == 3


def test_a_missed_deadline_says_by_how_much(timed: TimedModel) -> None:
    assert timed.generate(1).late_s is None
    timed.warm_up()
    met = timed.generate(1, deadline_s=0.066)
    assert (met.deadline_s, met.late_s) == (pytest.approx(0.066), 0)
    timed.decode_s = 1.0
    late = timed.generate(1, deadline_s=0.066).late_s
    assert late is not None
    assert 0.9 < late < 1.0


@pytest.mark.parametrize("codes", [0, 1, 3])
def test_a_suggested_deadline_is_possible_on_a_slower_machine(codes: int) -> None:
    def costs(factor: float) -> CostModel:
        return CostModel(*([factor * each] * 9 for each in (0.0123, 0.00104, 0.00441)))

    suggested = costs(1.0).suggested_deadline_s(codes)
    assert costs(1.25).min_latency_s(codes) <= suggested <= 1.4 * costs(1.0).min_latency_s(codes)
    assert suggested == float(f"{suggested:.2g}")


def test_a_rare_stall_does_not_spoil_later_draws(timed: TimedModel) -> None:
    timed.warm_up()
    for _ in range(60):
        timed.generate(1, deadline_s=0.066)
    timed.decode_s = 1.0
    timed.generate(1, deadline_s=0.066)
    timed.decode_s = 0.005
    assert timed.generate(1, deadline_s=0.016).codes_drawn == 1
    assert timed.generate(1, deadline_s=0.066).codes_drawn == L


def test_the_first_limit_that_binds(timed: TimedModel) -> None:
    flag = threading.Event()
    options: dict[str, Any] = {"seed": 0, "codes": 4, "cancel": flag}
    assert timed.generate(1, deadline_s=1.0, **options).stop_reason == "complete"
    assert timed.generate(1, deadline_s=0.030, **options).stop_reason == "deadline"
    flag.set()
    result = timed.generate(1, deadline_s=1.0, min_codes=2, **options)
    assert (result.stop_reason, result.codes_drawn) == ("cancelled", 2)


def test_a_slow_neighbour_costs_codes_and_not_the_deadline(timed: TimedModel) -> None:
    """From the third step on everything takes three times as long, decodes too."""
    timed.warm_up()

    def step_s(position: int) -> float:
        if position == 2:
            timed.decode_s = 0.015
        return 0.010 if position < 2 else 0.030

    timed.step_s = step_s
    begin = timed.clock()
    result = timed.generate(1, deadline_s=0.066)
    assert timed.clock() - begin <= 0.066
    assert 2 < result.codes_drawn < L
    assert result.stop_reason == "deadline"


def test_costs_follow_what_is_seen_while_running(timed: TimedModel) -> None:
    timed.warm_up()
    assert timed.generate(1, deadline_s=0.066).codes_drawn == L
    timed.step_s = lambda _position: 0.020
    timed.decode_s = 0.010
    for _ in range(260):
        timed.generate(1, deadline_s=0.2)
    with pytest.raises(InputError, match=r"take 0.0300 s here"):
        timed.generate(1, deadline_s=0.028)


def test_a_deadline_covers_previews(timed: TimedModel) -> None:
    timed.warm_up()
    begin = timed.clock()
    previews = list(timed.stream(1, seed=0, deadline_s=0.050))
    assert timed.clock() - begin <= 0.050
    # 15 ms a code with its preview: three of them, the last one decoded once
    assert [preview.codes_drawn for preview in previews] == [1, 2, 3]
    assert [type(preview) for preview in previews] == [Preview, Preview, SampleResult]
    assert previews[-1].stop_reason == "deadline"


def test_the_clock_starts_at_the_call(timed: TimedModel) -> None:
    timed.warm_up()
    begin = timed.clock()
    stream = timed.stream(1, seed=0, deadline_s=0.050)
    timed.clock.now += 0.020  # whatever the caller does before it looks
    *_, last = stream
    assert timed.clock() - begin <= 0.050
    assert (last.codes_drawn, last.stop_reason) == (2, "deadline")


def test_time_spent_looking_counts(timed: TimedModel) -> None:
    timed.warm_up()
    decodes = timed.decodes
    stream = timed.stream(1, seed=0, deadline_s=0.1)
    first = next(stream)
    timed.clock.now += 0.080
    (again,) = stream
    assert type(first) is Preview
    assert again.stop_reason == "deadline"
    assert torch.equal(again.data, first.data)
    assert timed.decodes == decodes + 1  # the same codes are not decoded twice


def test_quality_picks_the_fewest_codes() -> None:
    measured = curve({1: 50.0, 2: 20.0, 3: 11.0, 4: 9.0, 6: 10.0})
    # shares of full quality: .2, .5, .91, 1.11, 1
    for quality, codes in ((0.1, 1), (0.2, 1), (0.21, 2), (0.9, 3), (0.95, 4), (1.0, 4)):
        assert codes_for_quality(quality, measured) == codes
    errors_only = curve({1: None, 3: None, 6: None})  # squared error 1 / k
    assert codes_for_quality(0.4, errors_only) == 3
    assert codes_for_quality(0.6, errors_only) == 6
    for missing in (None, curve({1: 50.0, 4: 9.0})):
        with pytest.raises(
            InputError, match=r"quality=0.5 was asked .*anytime evaluate --save-curve"
        ):
            codes_for_quality(0.5, missing)


def test_a_curve_of_few_samples_gives_a_warning() -> None:
    distances = curve({1: 50.0, 2: 20.0, 6: 10.0})
    errors_only = curve({1: None, 3: None, 6: None})
    few = {"num_test_samples": 6, "num_samples": 99}
    with pytest.warns(UserWarning, match=r"with 6 test samples \(fewer than 100\) and 99 new"):
        assert codes_for_quality(0.5, distances.model_copy(update=few)) == 2
    with pytest.warns(UserWarning, match=r"with 6 test samples \(fewer than 100\); measure"):
        assert codes_for_quality(0.4, errors_only.model_copy(update=few)) == 3
    enough = {"num_test_samples": 100, "num_samples": 1000}
    assert codes_for_quality(0.5, distances.model_copy(update=enough)) == 2  # no warning


def test_quality_of_a_model(tmp_path: Path) -> None:
    bundle = tiny_bundle(curve=curve({1: 50.0, 2: 20.0, 3: 11.0, 6: 10.0}))
    model = AnytimeModel(bundle, device="cpu", cost_model_path=tmp_path / "costs.json")
    result = model.generate(2, quality=0.9, seed=0)
    assert (result.codes_drawn, result.stop_reason) == (3, "complete")
    assert model.sample(2, quality=0.9, seed=0).shape == (2, *sample_shape())
    with pytest.raises(InputError, match=r"min_codes=4 is more than quality=0.9 \(3\)"):
        model.generate(2, quality=0.9, min_codes=4)


def test_quality_between_two_that_were_measured_is_that_of_the_lower() -> None:
    measured = curve({2: 20.0, 4: 12.5, 6: 10.0})
    shares = [quality_at_codes(codes, measured) for codes in range(1, 7)]
    assert shares == [None, 0.5, 0.5, 0.8, 0.8, 1.0]
    errors_only = curve({1: None, 3: None, 6: None})  # squared error 1 / k
    assert [quality_at_codes(codes, errors_only) for codes in (1, 2, 5, 6)] == [
        1 / 6,
        1 / 6,
        0.5,
        1.0,
    ]
    assert quality_at_codes(6, None) is None
    assert quality_at_codes(6, curve({1: 50.0, 4: 9.0})) is None


def test_cancelling_from_another_thread(timed: TimedModel) -> None:
    flag = threading.Event()

    def step_s(position: int) -> float:
        if position == 3:  # in the middle of the fourth step
            thread = threading.Thread(target=flag.set)
            thread.start()
            thread.join()
        return 0.010

    timed.step_s = step_s
    result = timed.generate(2, seed=0, cancel=flag)
    assert (result.codes_drawn, result.stop_reason, timed.steps) == (4, "cancelled", 4)
    assert torch.equal(result.state.refine().codes, timed.sample_codes(2, seed=0))


def test_costs_are_kept_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "costs.json"
    first = TimedModel(path)
    first.warm_up()
    thorough = first.steps
    assert first.generate(1, deadline_s=0.066).codes_drawn == L
    second = TimedModel(path)
    second.warm_up()
    assert 0 < second.steps < thorough / 2
    assert second.generate(1, deadline_s=0.066).codes_drawn == L
    second.warm_up(3)
    assert len(json.loads(path.read_text())) == 2
    path.write_text("{")  # what it said can be timed again
    third = TimedModel(path)
    third.warm_up()
    assert third.steps == thorough


@pytest.mark.parametrize(("codes", "steps"), [(3, 3), (L, L), (L + 1, L)])
def test_a_warm_up_draws_no_more_codes_than_tell(
    timed: TimedModel, monkeypatch: pytest.MonkeyPatch, codes: int, steps: int
) -> None:
    monkeypatch.setattr(engine, "_WARM_UP_CODES", codes)
    monkeypatch.setattr(engine, "_WARM_UP_DRAWS", 5)
    timed.warm_up()
    assert timed.steps == 5 * steps


def test_costs_of_another_hour_are_measured_again(tmp_path: Path) -> None:
    def least_ms(step_s: float) -> float:
        model = TimedModel(tmp_path / "costs.json")
        model.step_s = lambda _position: step_s
        model.warm_up()
        return 1e3 * model.min_deadline_s(min_codes=2)

    assert least_ms(0.010) == pytest.approx(25)
    assert least_ms(0.020) == pytest.approx(45)  # busy
    assert least_ms(0.014) == pytest.approx(33)  # nobody has confirmed the busy hour's
    assert least_ms(0.010) == pytest.approx(25)
    for _ in range(3):
        assert least_ms(0.0099) == pytest.approx(25, abs=1.1)  # as good as equal
    assert least_ms(0.0075) == pytest.approx(25, abs=1.1)  # those are sure: on the safe side
    assert least_ms(0.006) == pytest.approx(17)  # but not for ever


def test_costs_of_another_day_are_measured_again(tmp_path: Path) -> None:
    now = 1e9
    path = tmp_path / "costs.json"

    def book() -> CostModelStore:
        return CostModelStore(path, now=lambda: now)

    first = book()
    first.cost_model("a").merge(CostModel([0.1], [0.2], [0.3]))
    first.cost_model("a").confirmations = 2
    first.save("a")
    assert book().cost_model("a").is_measured
    assert book().cost_model("a").confirmations == 2
    now += 20 * 3600
    later = book()
    later.cost_model("a")
    later.save("a")  # they were used, and hold
    now += 20 * 3600
    assert book().cost_model("a").is_measured
    now += 30 * 3600
    assert not book().cost_model("a").is_measured
    now = 1e9 - 3600  # the machine's clock was wrong
    assert not book().cost_model("a").is_measured
    path.write_text('{"a": {"first_code_s": [1], "step_s": [1], "decode_s": [1]}}')
    assert not book().cost_model("a").is_measured  # nobody knows when


def test_costs_of_another_model_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    first = TimedModel(path)
    first.warm_up()
    second = TimedModel(path, tiny_bundle(seed=1))
    second.warm_up()
    assert second.steps == first.steps


def test_a_cost_book_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    book = CostModelStore(tmp_path / "file" / "costs.json")
    book.cost_model("a").step.add(1.0)
    with pytest.warns(UserWarning, match="could not keep measured times in .*costs.json"):
        book.save("a")


@pytest.mark.parametrize("damage", ["folder", "nested", "endless"])
def test_a_cost_book_that_cannot_be_read_is_measured_again(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "costs.json"
    if damage == "folder":
        path.mkdir()
    else:
        times = "[" * 200_000 if damage == "nested" else "[Infinity]"
        path.write_text(
            f'{{"a": {{"first_code_s": {times}, "step_s": [1], "decode_s": [1], '
            '"measured_at": 1e9}}'
        )
    book = CostModelStore(path, now=lambda: 1e9)
    assert not book.cost_model("a").is_measured
    if damage != "folder":
        book.cost_model("a").merge(CostModel([0.1], [0.2], [0.3]))
        book.save("a")
        assert CostModelStore(path, now=lambda: 1e9).cost_model("a").is_measured


def test_costs_of_another_version_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text('{"theirs": {"novelty": 1}}')
    book = CostModelStore(path)
    book.cost_model("a").step.add(1.0)
    book.save("a")
    assert json.loads(path.read_text())["theirs"] == {"novelty": 1}


def test_pace() -> None:
    costs = CostModel([0.020] * 9, [0.010] * 99 + [0.050], [0.002] * 99 + [0.400])
    assert costs.reserve_s() == pytest.approx(0.010 + 0.002)  # one stall in a hundred is nothing
    assert costs.min_latency_s(3) == pytest.approx(0.020 + 2 * 0.010 + 0.002)
    assert costs.reliable_deadline_s(3) == pytest.approx(0.020 + 2 * 0.010 + 0.002)
    pace = LatencyTracker(costs)
    assert pace.next_code_and_decode_s() == pytest.approx(0.012)
    pace.record_setup(0.005)
    pace.record_step(0.030)  # a first step always takes longer
    assert pace.next_code_and_decode_s() == pytest.approx(0.012)
    assert costs.first_code.to_tuple()[-1] == pytest.approx(0.035)
    pace.record_step(0.030)
    assert pace.next_code_and_decode_s() == pytest.approx(0.012)
    pace.record_step(0.010)
    assert pace.next_code_and_decode_s() == pytest.approx(2 * 0.012)
    pace.record_step(0.002)  # faster than usual is no reason to reserve less
    assert pace.next_code_and_decode_s() == pytest.approx(0.012)
    pace.record_step(1.0)  # a stall, of which the next step knows nothing
    assert pace.next_code_and_decode_s() == costs.reserve_s((0.2 + 4) / 2)
    pace.record_step(0.5)  # it was none
    assert pace.next_code_and_decode_s() == costs.reserve_s(50)


def test_delays_are_kept_clear_of() -> None:
    costs = CostModel([0.020], [0.010] * 90 + [0.013] * 10, [0.002] * 90 + [0.006] * 10)
    assert costs.reserve_s() == pytest.approx(0.012 + 2.5 * 0.005)  # 3 and 4 make 5
    assert costs.reserve_s(2.0) == pytest.approx(2 * (0.012 + 2.5 * 0.005))
    assert costs.reliable_deadline_s(1) == pytest.approx(0.022 + 2.5 * 0.004)
    assert costs.reliable_deadline_s(10) > costs.reliable_deadline_s(1) + 9 * 0.010


def test_one_stall_among_few_is_nothing() -> None:
    assert LatencyWindow([0.010] * 7 + [1.0]).spread == 0
    assert LatencyWindow([0.010] * 7 + [0.020, 1.0]).spread == pytest.approx(0.010)
    assert LatencyWindow([0.010]).spread == 0


def test_a_quantile_is_the_shortest_time_that_enough_kept_to() -> None:
    times = LatencyWindow([0.4, 0.1, 0.3, 0.2])
    shares = (0.0, 0.25, 0.26, 0.5, 0.51, 0.75, 0.76, 1.0)
    assert [times.quantile(share) for share in shares] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4]


def test_times_are_written_to_a_tenth_of_a_microsecond() -> None:
    assert LatencyWindow([1.00000004, 0.12345678]).to_tuple() == (1.0, 0.1234568)


def test_times_forget_the_oldest() -> None:
    generator = torch.Generator().manual_seed(0)
    seconds = (torch.rand(600, generator=generator) * 20).round().tolist()  # many are equal
    times = LatencyWindow(seconds[:10])
    for number, one in enumerate(seconds[10:], start=11):
        times.add(one)
        recent = sorted(seconds[:number][-256:])
        for share in (0.0, 0.05, 0.5, 0.98, 1.0):
            expected = recent[max(0, math.ceil(share * len(recent)) - 1)]
            assert times.quantile(share) == expected
    assert times.to_tuple() == tuple(seconds[-256:])


def test_times_belong_to_the_kernel_they_were_measured_with(
    model: AnytimeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = model.sampler.decoder
    if not isinstance(decoder, NativePriorDecoder):
        pytest.skip("there is no kernel here")
    here, loaded = engine.decoder_key(decoder), load_kernel()
    assert loaded.instruction_set in here
    for other in (replace(loaded, instruction_set="mmx"), replace(loaded, origin="found")):
        monkeypatch.setattr(engine, "load_kernel", lambda other=other: other)
        assert engine.decoder_key(decoder) != here
