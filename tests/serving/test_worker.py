"""The thread that owns the models."""

from __future__ import annotations

import queue
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from real_server import PATIENCE_S, wait_for
from serving_fakes import L, Stage

from anytime_ar.serving.jobs import Done, Draw, Event, Refused
from anytime_ar.serving.kept import APIECE, LET_GO_S, Keeper
from anytime_ar.serving.worker import STUCK_S, Worker


class Working:
    def __init__(self, folder: Path, *, fails: bool = False) -> None:
        self.stage = Stage(folder, slots=8)
        self.stage.models[0].fails = fails
        self.worker = Worker(self.stage.scheduler)
        self.worker.start()

    def ask(self, seed: int = 0) -> queue.Queue[Event]:
        heard: queue.Queue[Event] = queue.Queue()
        plan, _ = self.stage.models[0].plan(2, seed=seed)
        now = self.stage.clock()
        draw = Draw(
            model="tiny0",
            client="a",
            arrival=now,
            deadline=now + 100.0,
            listener=heard.put,
            plan=plan,
            floor=1,
            cap=L,
        )
        self.worker.submit(draw)
        return heard


@pytest.fixture
def working(tmp_path: Path) -> Iterator[Working]:
    made = Working(tmp_path)
    wait_for(lambda: made.worker.progresses, "warm models")
    yield made
    made.worker.end()


def test_jobs_are_done_in_the_thread(working: Working) -> None:
    heard = [working.ask(seed) for seed in range(6)]
    for seed, one in enumerate(heard):
        done = one.get(timeout=PATIENCE_S)
        assert isinstance(done, Done)
        assert torch.equal(done.codes, working.stage.models[0].sample_codes(2, seed=seed))
        assert one.empty()


def test_a_broken_device_is_reported_and_comes_back(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anytime_ar.serving.worker._RETRY_S", 0.01)
    working.stage.models[0].fails = True
    lost = working.ask().get(timeout=PATIENCE_S)
    assert isinstance(lost, Refused)
    assert lost.reason == "broken"
    wait_for(lambda: not working.worker.progresses, "the failure to be known")
    refused = working.ask().get(timeout=PATIENCE_S)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry_s) == ("broken", 0.01)
    working.stage.models[0].fails = False
    wait_for(lambda: working.worker.progresses, "the device")
    assert isinstance(working.ask().get(timeout=PATIENCE_S), Done)


def test_a_device_that_is_broken_from_the_start_is_told_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anytime_ar.serving.worker._RETRY_S", 0.01)
    made = Working(tmp_path, fails=True)
    first = made.ask().get(timeout=PATIENCE_S)  # while it tries to get warm
    assert isinstance(first, Refused)
    assert first.reason == "broken"
    assert not made.worker.progresses
    made.stage.models[0].fails = False
    wait_for(lambda: made.worker.progresses, "warm models")
    assert isinstance(made.ask().get(timeout=PATIENCE_S), Done)
    made.worker.end()


def test_a_turn_without_end_is_no_progress(working: Working) -> None:
    working.worker._turn_began = working.stage.clock()
    assert working.worker.progresses
    working.stage.clock.now += STUCK_S + 1
    assert not working.worker.progresses
    working.worker._turn_began = None


def test_kept_draws_are_forgotten_in_time_and_of_too_many_the_oldest(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    heard = stage.ask(2)
    stage.run()
    one = 2 * L * (4 + 8)
    keeper = Keeper(10.0, stage.clock, most_bytes=3 * (APIECE + one))
    for name in "abcd":
        keeper.put(name, heard.draw, heard.done.codes)
        stage.clock.now += 1
    assert [name for name in "abcd" if keeper.get(name)] == ["b", "c", "d"]
    kept = keeper.get("c")
    assert kept is not None
    assert torch.equal(kept.codes.long(), heard.done.codes)
    keeper.put("b", heard.draw, heard.done.codes)  # anew: as the latest
    stage.clock.now += 9
    assert [name for name in "bcd" if keeper.get(name)] == ["b"]
    assert len(keeper) == 1
    stage.clock.now += 1
    assert len(keeper) == 0


def test_draws_that_are_let_go_can_be_put_again_for_a_moment(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    heard = stage.ask(2)
    stage.run()
    keeper = Keeper(100.0, stage.clock)
    for name in "abcd":
        keeper.put(name, heard.draw, heard.done.codes)
    keeper.let_go("b")
    stage.clock.now += LET_GO_S - 1
    keeper.let_go("c")
    assert [name for name in "abcd" if keeper.get(name)] == [*"abcd"]
    assert [name for name in "abcd" if keeper.has(name)] == ["a", "d"]
    keeper.put("c", heard.draw, heard.done.codes)
    stage.clock.now += 1
    assert [name for name in "abcd" if keeper.get(name)] == ["a", "c", "d"]
    stage.clock.now += LET_GO_S
    assert [name for name in "abcd" if keeper.has(name)] == ["a", "c", "d"]
    assert len(keeper) == 3


def test_what_a_kept_draw_takes_is_counted_whole(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    heard = stage.ask(1, top_p=[0.5] * L, temperature=[1.0] * L)
    stage.run()
    keeper, kept = Keeper(100.0, stage.clock), 500
    tracemalloc.start()
    for i in range(kept):
        plan = stage.models[0].plan(1, seed=i, top_p=[0.5] * L, temperature=[1.0] * L)[0]
        keeper.put(f"a-draw-{i:06}", replace(heard.draw, plan=plan), heard.done.codes.clone())
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Tensors are not seen by it: three of them, with their numbers, and two strings beside.
    assert taken / kept < APIECE / 2
