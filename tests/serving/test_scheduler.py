"""The scheduler, turned by hand under a clock of its own."""

from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from serving_fakes import DECODE_S, ROW_S, STEP_S, Heard, L, Stage, poisson

from anytime_ar.errors import InputError
from anytime_ar.serving.engine.admission import STALE_S
from anytime_ar.serving.engine.fairness import TARGET_UTILISATION
from anytime_ar.serving.engine.jobs import (
    CodecJob,
    CodecResultEvent,
    PreviewEvent,
    ResultEvent,
    ServingError,
)
from anytime_ar.serving.engine.runner import ModelRunner

SLOTS = 8
FULL_RATE = SLOTS / (L * (STEP_S + ROW_S * SLOTS) + DECODE_S * SLOTS)
"""Draws a second with all codes."""
FLOOR_RATE = SLOTS / (STEP_S + ROW_S * SLOTS + DECODE_S * SLOTS)
"""And with one."""
OURS = pytest.mark.parametrize("kind", ["ours"], indirect=True)
"""For who is taken in and who makes room, which depends on costs alone: the clock is a fake."""


@pytest.fixture
def stage(tmp_path: Path, kind: str) -> Stage:
    return Stage(tmp_path, slots=SLOTS, kind=kind)


def refused(heard: Heard) -> ServingError:
    assert isinstance(heard.last, ServingError), heard.last
    return heard.last


def arrivals(rate: float, seconds: float, **options: Any) -> list[tuple[float, dict[str, Any]]]:
    return [(at, options) for at in poisson(rate, seconds)]


def in_time(heards: list[Heard]) -> float:
    good = [
        h
        for h in heards
        if isinstance(h.last, ResultEvent) and h.done.decoded_at <= h.draw.deadline
    ]
    return len(good) / len(heards)


def test_draws_get_what_they_get_alone(stage: Stage) -> None:
    asked: list[dict[str, Any]] = [
        {"n": 2, "seed": 1, "label": ["cat", "owl"]},
        {"n": 1, "seed": 2, "cap": 3, "temperature": 0.5},
        {"n": 2, "seed": 3, "guidance": 2.0},
        {"n": 1, "seed": 4, "floor": 5},
    ]
    heards = []
    for options in asked:
        heards.append(stage.ask(**options))
        stage.scheduler.run_iteration()  # they come one after the other, and leave as they are done
    stage.run()
    for heard, options in zip(heards, asked, strict=True):
        options.pop("floor", None)
        codes = options.pop("cap", L)
        alone = stage.models[0].generate(**options, codes=codes)
        assert torch.equal(heard.done.codes, alone.codes)
        torch.testing.assert_close(heard.done.data, alone.data)
        assert heard.done.stop_reason == "complete"
    assert stage.scheduler.idle
    assert stage.scheduler.runners["tiny0"].num_rows == 0


def test_a_deadline_ends_a_draw_with_what_fits(stage: Stage) -> None:
    heard = stage.ask(deadline_s=0.017, seed=5)
    stage.run()
    assert heard.done.stop_reason == "deadline"
    k = heard.done.codes.shape[1]
    assert k == 6  # of 1.5 ms each, 2 ms to decode, and up to 6 ms to answer
    assert heard.done.decoded_at <= heard.draw.deadline
    assert torch.equal(heard.done.codes, stage.models[0].sample_codes(1, seed=5, codes=k))
    assert heard.done.queue_s == 0
    assert heard.done.sampling_s == pytest.approx(6 * 0.0015)
    assert heard.done.decode_s == pytest.approx(0.002)


@OURS
def test_what_cannot_be_in_time_is_refused_at_once_and_told_when_to_come_back(
    stage: Stage,
) -> None:
    stage.ask()
    stage.run()  # estimates have been seen to hold
    heard = stage.ask(deadline_s=0.010, floor=6)
    error = refused(heard)
    assert error.reason == "overloaded"
    assert error.retry_after_s is not None
    assert 0 < error.retry_after_s < 0.01
    assert not heard.events  # at once: no turn was needed
    assert isinstance(stage.ask(deadline_s=0.010, floor=3).refused_at_once, type(None))


@OURS
def test_a_deadline_that_an_idle_server_cannot_keep_is_told_with_the_shortest(
    stage: Stage,
) -> None:
    unsure = stage.ask(deadline_s=0.00001)  # the costs are not confirmed yet
    stage.run()
    assert refused(unsure).reason == "deadline"
    stage.ask()
    stage.run()
    error = refused(stage.ask(deadline_s=0.00001))
    assert error.reason == "overloaded"
    assert "a deadline of 0.01 ms is too short" in str(refused(unsure))
    assert "a deadline of 0.01 ms is too short" in str(error)
    shortest = re.search(r"allow at least ([0-9.]+) ms", str(error))
    assert shortest is not None
    assert STEP_S + ROW_S + DECODE_S < float(shortest[1]) / 1000 < 0.02
    assert stage.ask(deadline_s=float(shortest[1]) / 1000).refused_at_once is None
    for _ in range(20):
        busy = stage.ask(deadline_s=0.05, floor=L)
    assert "the server is overloaded" in str(refused(busy))


@OURS
def test_nothing_is_left_of_the_refused(stage: Stage) -> None:
    stage.ask()
    stage.run()
    for _ in range(50):
        assert stage.ask(deadline_s=0.001, floor=L).refused_at_once is not None
    assert len(stage.scheduler.admission._job_work) <= 1


@OURS
def test_admission_at_the_boundary_is_exact_and_all_or_nothing(stage: Stage) -> None:
    """Four draws of two rows fill eight places; the fifth waits, whole, until one has left."""
    pairs = [stage.ask(2, cap=4) for _ in range(5)]
    stage.scheduler.run_iteration()
    assert [bool(pair.draw.rows) for pair in pairs] == [True] * 4 + [False]
    assert stage.scheduler.runners["tiny0"].batch.free_slots == 0
    stage.run()
    assert all(pair.done.stop_reason in ("complete", "load") for pair in pairs)
    single = stage.ask(1, cap=4)
    stage.scheduler.run_iteration()
    assert len(single.draw.rows) == 1


def test_slots_of_the_cancelled_and_the_failed_are_free_again(stage: Stage) -> None:
    runner = stage.scheduler.runners["tiny0"]
    for _ in range(500):
        heard = stage.ask(3)
        stage.scheduler.run_iteration()
        heard.draw.cancelled = True
        steps = stage.models[0].steps
        stage.scheduler.run_iteration()
        assert stage.models[0].steps <= steps + 1
        assert heard.done.stop_reason == "cancelled"
    assert (runner.num_rows, runner.batch.free_slots, stage.scheduler.idle) == (0, SLOTS, True)
    stage.models[0].fails = True
    lost = stage.ask(3)
    with pytest.raises(RuntimeError, match="the device is gone"):
        stage.scheduler.run_iteration()
    stage.scheduler.fail_all()
    assert refused(lost).reason == "broken"
    stage.models[0].fails = False
    assert stage.scheduler.idle
    after = stage.ask(SLOTS)
    stage.run()
    assert after.done.stop_reason == "complete"


def test_a_decode_that_fails_loses_nobody(stage: Stage) -> None:
    """Also those that have left the batch for it."""
    ending, going = stage.ask(cap=1), stage.ask()
    engine = stage.models[0].sampler
    decode = engine.decode
    engine.decode = lambda codes: decode(codes.narrow(1, 0, 99))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        stage.scheduler.run_iteration()
    stage.scheduler.fail_all()
    assert [refused(heard).reason for heard in (ending, going)] == ["broken"] * 2
    assert len(ending.events) == len(going.events) == 1
    engine.decode = decode  # type: ignore[method-assign]
    after = stage.ask(SLOTS)
    stage.run()
    assert after.done.stop_reason == "complete"


def test_what_is_stopped_before_its_first_code_has_nothing(stage: Stage) -> None:
    for _ in range(2):
        stage.ask(SLOTS, floor=L)
    waiting = stage.ask(1)
    stage.scheduler.run_iteration()
    waiting.draw.cancelled = True
    stage.scheduler.run_iteration()
    assert refused(waiting).reason == "cancelled"


def test_under_load_everyone_gets_fewer_codes_and_nobody_is_late(tmp_path: Path) -> None:
    figures = {}
    for load in (0.5, 1.0, 2.0):
        stage = Stage(tmp_path, slots=SLOTS, pretends=True)
        heards = stage.play(arrivals(load * FULL_RATE, 4.0, deadline_s=0.3))
        assert in_time(heards) >= 0.995
        figures[load] = sum(h.done.codes.shape[1] for h in heards) / len(heards)
        reasons = {h.done.stop_reason for h in heards}
        assert "load" in reasons or load < 1
    assert figures[0.5] > 0.98 * L
    assert figures[0.5] > figures[1.0] > figures[2.0] > 1


def test_beyond_the_floors_some_are_refused_and_the_rest_is_in_time(tmp_path: Path) -> None:
    stage = Stage(tmp_path, slots=SLOTS, pretends=True)
    heards = stage.play(arrivals(1.5 * FLOOR_RATE, 3.0, deadline_s=0.3))
    taken = [h for h in heards if h.refused_at_once is None]
    assert in_time(taken) >= 0.995
    assert len(taken) >= 0.9 * TARGET_UTILISATION * FLOOR_RATE * 3.0
    assert all(refused(h).retry_after_s for h in heards if h.refused_at_once is not None)


@pytest.mark.parametrize(("policy", "share"), [("reject", (0.3, 0.75)), ("fixed", (0.0, 0.3))])
def test_other_policies_lose_requests(
    tmp_path: Path, policy: Any, share: tuple[float, float]
) -> None:
    stage = Stage(tmp_path, slots=SLOTS, policy=policy, pretends=True)
    heards = stage.play(arrivals(2.0 * FULL_RATE, 4.0, deadline_s=0.3))
    assert share[0] <= in_time(heards) <= share[1]
    done = [h for h in heards if isinstance(h.last, ResultEvent)]
    assert {h.done.codes.shape[1] for h in done} == {L}
    if policy == "fixed":
        assert len(done) == len(heards)


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_estimates_that_are_wrong_tenfold_harm_nobody(tmp_path: Path, factor: float) -> None:
    """The machine becomes ten times slower, or faster, than was measured."""
    stage = Stage(tmp_path, slots=SLOTS, pretends=True)
    if factor < 1:
        stage.models[0].slowness = 10.0
        stage.scheduler.warm_up()
    stage.models[0].slowness = max(1.0, factor)
    rate = 1.5 * FULL_RATE / stage.models[0].slowness
    deadline_s = 0.3 * stage.models[0].slowness
    heards = stage.play(arrivals(rate, 40 / rate, deadline_s=deadline_s, client="b"))
    assert all(h.refused_at_once is None for h in heards)
    assert in_time(heards) == 1.0


@pytest.mark.parametrize(("measured", "true"), [(1.0, 10.0), (10.0, 1.0)])
def test_floors_that_can_be_had_are_promised_and_kept_whatever_was_measured(
    tmp_path: Path, measured: float, true: float
) -> None:
    """The machine is ten times slower, or faster, than when the server started, and deadlines leave
    time for the floor and not for much more: by what was measured they leave none, or plenty."""
    stage = Stage(tmp_path, slots=SLOTS)
    stage.models[0].slowness = measured
    stage.scheduler.warm_up()
    stage.models[0].slowness = true
    stage.clock.now += 2 * STALE_S
    floor = L // 2
    floor_s = floor * (STEP_S + ROW_S) + DECODE_S  # of one alone
    each_s = (floor * (STEP_S + ROW_S * SLOTS) + DECODE_S * SLOTS) / SLOTS  # in a full batch
    options = {"deadline_s": 3 * true * floor_s, "floor": floor}
    heards = stage.play([(2 * true * each_s * i, options) for i in range(40)])
    assert in_time(heards) == 1.0
    assert min(h.done.codes.shape[1] for h in heards) >= floor


@OURS
def test_what_is_taken_in_on_trial_is_judged_soon(stage: Stage) -> None:
    stage.ask()
    stage.run()
    stage.clock.now += 5.0
    fits = stage.ask(deadline_s=0.100)
    heard = stage.ask(deadline_s=0.019, floor=L)
    assert heard.refused_at_once is None
    begin = stage.clock.now
    stage.run()
    assert refused(heard).reason == "overloaded"
    assert heard.events[0][0] < begin + 0.008  # after three codes, and not at its deadline
    assert fits.done.stop_reason == "complete"
    assert stage.scheduler.runners["tiny0"].num_rows == 0


@OURS
def test_nothing_is_kept_of_what_ends_on_trial(stage: Stage) -> None:
    """Its client leaves before the first code, so that no turn judges it."""
    stage.models[0].slowness = 10.0
    stage.ask()
    stage.run()
    gone = []
    for _ in range(5):
        stage.clock.now += 5.0
        heard = stage.ask(deadline_s=0.010)
        heard.draw.cancelled = True
        stage.run()
        assert refused(heard).reason == "cancelled"
        gone.append(weakref.ref(heard.draw))
    stage.heard.clear()
    del heard
    gc.collect()
    assert [draw() for draw in gone] == [None] * 5


@OURS
def test_nobody_is_refused_on_stale_estimates(stage: Stage) -> None:
    stage.models[0].slowness = 10.0  # something else has the machine for a while
    stage.ask()
    stage.run()
    stage.models[0].slowness = 1.0
    stage.clock.now += 5.0
    heard = stage.ask(deadline_s=0.010)
    stage.run()
    assert heard.done.decoded_at <= heard.draw.deadline


@OURS
def test_an_urgent_draw_gets_the_room_of_those_with_time(stage: Stage) -> None:
    patient = [stage.ask(2, floor=L, seed=i) for i in range(4)]
    stage.scheduler.run_iteration()
    urgent = stage.ask(1, deadline_s=0.02, floor=2)
    stage.run()
    assert urgent.done.decoded_at <= urgent.draw.deadline
    for i, heard in enumerate(patient):  # set aside for a while, and continued as if nothing was
        assert heard.done.stop_reason == "complete"
        assert torch.equal(heard.done.codes, stage.models[0].sample_codes(2, seed=i))


@OURS
def test_of_those_with_their_floors_who_is_furthest_beyond_a_fair_share_makes_room(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = {"flood": 0.5, "quiet": 0.9}
    monkeypatch.setattr(stage.scheduler.admission, "client_shares", lambda _waiting: shares)
    flood, quiet = (stage.ask(4, client=client) for client in shares)  # alike but for that
    stage.scheduler.run_iteration()
    urgent = stage.ask(4, deadline_s=0.05, client="urgent")
    stage.run()
    assert urgent.done.decoded_at <= urgent.draw.deadline
    assert flood.done.codes.shape[1] < quiet.done.codes.shape[1]


@OURS
def test_those_that_make_room_are_not_decoded_before_others_that_are_due(stage: Stage) -> None:
    patient = stage.ask(6)
    stage.scheduler.run_iteration()
    tight = stage.ask(1, deadline_s=0.020)
    stage.scheduler.run_iteration()  # there is time for one more, and to decode one sample, not six
    urgent = stage.ask(7, deadline_s=0.040)
    stage.run()
    assert patient.done.stop_reason == "load"
    for heard in (tight, urgent):
        assert heard.done.decoded_at <= heard.draw.deadline


@OURS
def test_steps_and_responses_may_be_late_together(stage: Stage) -> None:
    """Both were before: neither uses up what is kept for the other."""
    stage.models[0].stalls = iter([0.0, 0.010])
    stage.ask()
    stage.run()
    for late in range(L):
        stage.models[0].stalls = iter([0.0] * late + [0.010])
        heard = stage.ask(deadline_s=0.030)
        stage.run()
        assert heard.done.decoded_at + 0.005 <= heard.draw.deadline


@OURS
def test_joining_does_not_break_promises(stage: Stage) -> None:
    """Alone its twelve codes take 18 ms and fit; every row beside it makes them slower."""
    tight = stage.ask(1, deadline_s=0.026, floor=L)
    stage.scheduler.run_iteration()
    others = [stage.ask(1) for _ in range(7)]
    stage.run()
    assert tight.done.stop_reason == "complete"
    assert tight.done.decoded_at <= tight.draw.deadline
    assert all(other.done.stop_reason == "complete" for other in others)


def test_clients_share_the_machine_fairly(tmp_path: Path) -> None:
    stage = Stage(tmp_path, slots=SLOTS, pretends=True)
    flood = arrivals(3.0 * FULL_RATE, 4.0, deadline_s=0.3, client="flood")
    quiet = [(at, {"deadline_s": 0.3, "client": "quiet"}) for at in poisson(10, 4.0, seed=9)]
    heards = stage.play(flood + quiet)
    served = [h for h in heards if h.refused_at_once is None]
    mean = {
        name: sum(codes) / len(codes)
        for name in ("flood", "quiet")
        if (codes := [h.done.codes.shape[1] for h in served if h.draw.client == name])
    }
    assert mean["quiet"] > 2 * mean["flood"]
    assert mean["quiet"] > 0.8 * L
    assert all(h.refused_at_once is None for h in heards if h.draw.client == "quiet")


def test_looks_come_after_every_code_and_at_a_rate(stage: Stage) -> None:
    heard = stage.ask(2, look_every_s=0.0)
    stage.run()
    previews = [event for _, event in heard.events if isinstance(event, PreviewEvent)]
    assert [preview.codes.shape[1] for preview in previews] == list(range(1, L))
    assert all(
        torch.equal(preview.codes, heard.done.codes[:, : preview.codes.shape[1]])
        for preview in previews
    )
    rare = stage.ask(1, look_every_s=0.005)
    stage.run()
    assert 2 <= len(rare.events) - 1 <= 5


def test_nobody_waits_for_looks(stage: Stage) -> None:
    watched = stage.ask(4, look_every_s=0.0, cap=L)
    for _ in range(6):
        stage.ask(4)
    stage.scheduler.run_iteration()
    stage.scheduler.run_iteration()
    previews = [event for _, event in watched.events if isinstance(event, PreviewEvent)]
    assert len(previews) == 1  # the first one, and no more while others wait


def test_several_models_take_turns(tmp_path: Path, kind: str) -> None:
    stage = Stage(tmp_path, slots=4, models=2, kind=kind)
    heards = [stage.ask(2, model=i % 2, seed=i, deadline_s=1.0) for i in range(4)]
    stage.run()
    for i, heard in enumerate(heards):
        assert torch.equal(heard.done.codes, stage.models[i % 2].sample_codes(2, seed=i))


def test_draining_answers_all_and_takes_nothing_more(stage: Stage) -> None:
    heards = [stage.ask(2) for _ in range(6)]
    stage.scheduler.run_iteration()
    until = stage.clock.now + 0.05
    stage.scheduler.drain(until)
    late = stage.ask()
    assert refused(late).reason == "draining"
    stage.run()
    assert stage.clock.now <= until
    assert all(isinstance(h.last, ResultEvent) for h in heards)
    assert {h.done.stop_reason for h in heards} <= {"complete", "drain", "load"}
    assert "drain" in {h.done.stop_reason for h in heards}


@OURS
def test_what_cannot_be_had_before_the_end_is_told_then(stage: Stage) -> None:
    """Else it would be drawn on, and its stream cut off with the process."""
    heards = [stage.ask(SLOTS, floor=L, deadline_s=60.0) for _ in range(3)]
    stage.scheduler.run_iteration()
    until = stage.clock.now + 0.02
    stage.scheduler.drain(until)
    stage.run()
    assert [refused(heard).reason for heard in heards] == ["draining"] * 3
    assert stage.clock.now <= until + STEP_S + ROW_S * SLOTS


def test_a_draw_goes_on_where_it_ended(stage: Stage) -> None:
    first = stage.ask(2, cap=4, seed=7)
    stage.run()
    more = stage.ask(2, cap=9, floor=4, seed=7, given=first.done.codes)
    stage.run()
    assert torch.equal(more.done.codes, stage.models[0].sample_codes(2, seed=7, codes=9))


def test_tasks_are_done_between_steps_and_wait_for_draws_in_a_hurry(stage: Stage) -> None:
    model, events = stage.models[0], []
    codes = model.sample_codes(4, seed=0)

    def decode(part: torch.Tensor) -> torch.Tensor:
        stage.clock.now += 0.01
        return model.decode(part)

    def task(deadline_s: float) -> CodecJob:
        return CodecJob(
            model="tiny0",
            client="a",
            arrival=stage.clock.now,
            deadline=stage.clock.now + deadline_s,
            listener=lambda event: events.append((stage.clock.now, event)),
            chunks=[lambda part=part: decode(part) for part in codes.split(2)],
            chunk_size=2,
            num_samples=4,
            operation="decode",
        )

    stage.scheduler.submit(task(10.0))
    stage.run()
    (_, computed) = events.pop()
    assert isinstance(computed, CodecResultEvent)
    torch.testing.assert_close(computed.result, model.decode(codes))
    hurried = stage.ask(1, deadline_s=0.014, floor=6)  # no 10 ms to give away
    stage.scheduler.submit(task(10.0))
    stage.run()
    assert hurried.done.decoded_at <= hurried.draw.deadline
    assert events[0][0] > hurried.done.decoded_at


def test_lanes_refuse_what_they_cannot_be(stage: Stage) -> None:
    with pytest.raises(InputError, match="slots=0 leaves no room for a sample"):
        ModelRunner("x", stage.models[0], 0, stage.clock)


@pytest.mark.parametrize("codes", [1, 5, L])
def test_a_draw_that_comes_with_all_its_codes_is_decoded_and_no_more(
    stage: Stage, codes: int
) -> None:
    first = stage.ask(2, seed=7, cap=codes)
    stage.run()
    steps, begin = stage.models[0].steps, stage.clock.now
    again = stage.ask(2, seed=7, cap=codes, floor=codes, given=first.done.codes)
    stage.run()
    assert stage.models[0].steps == steps
    assert stage.clock.now - begin == pytest.approx(2 * DECODE_S)
    assert again.done.stop_reason == "complete"
    assert torch.equal(again.done.codes, first.done.codes)
    torch.testing.assert_close(again.done.data, first.done.data)


def test_a_probe_takes_one_row_and_corrects_the_costs(tmp_path: Path) -> None:
    stage = Stage(tmp_path, slots=1)
    stage.models[0].slowness = 3.0
    stage.scheduler.probe()
    runner = stage.scheduler.runners["tiny0"]
    assert runner.batch.free_slots == 1
    assert runner.costs.step_s(1, 0) == pytest.approx(3 * (STEP_S + ROW_S))
    assert runner.costs.decode_s(1) == pytest.approx(3 * DECODE_S)
