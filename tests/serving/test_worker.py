"""The thread that owns the models."""

from __future__ import annotations

import queue
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from serving_fakes import L, Stage

from anytime_ar.serving.engine.jobs import JobEvent, ResultEvent, SamplingJob, ServingError
from anytime_ar.serving.engine.session_store import (
    RELEASE_GRACE_S,
    SESSION_OVERHEAD_BYTES,
    SessionStore,
)
from anytime_ar.serving.engine.worker import STALL_TIMEOUT_S, Worker
from processes import PATIENCE_S, wait_for


class Working:
    def __init__(self, folder: Path, kind: str = "ours", *, fails: bool = False) -> None:
        self.stage = Stage(folder, slots=8, kind=kind)
        self.stage.models[0].fails = fails
        self.worker = Worker(self.stage.scheduler)
        self.worker.start()

    def ask(self, seed: int = 0) -> queue.Queue[JobEvent]:
        heard: queue.Queue[JobEvent] = queue.Queue()
        plan, _ = self.stage.models[0].plan(2, seed=seed)
        now = self.stage.clock()
        draw = SamplingJob(
            model="tiny0",
            client="a",
            arrival=now,
            deadline=now + 100.0,
            listener=heard.put,
            plan=plan,
            min_codes=1,
            max_codes=L,
        )
        self.worker.submit(draw)
        return heard


@pytest.fixture
def working(tmp_path: Path, kind: str) -> Iterator[Working]:
    made = Working(tmp_path, kind)
    wait_for(lambda: made.worker.healthy, "warm models")
    yield made
    made.worker.stop()


def test_jobs_are_done_in_the_thread(working: Working) -> None:
    heard = [working.ask(seed) for seed in range(6)]
    for seed, one in enumerate(heard):
        done = one.get(timeout=PATIENCE_S)
        assert isinstance(done, ResultEvent)
        assert torch.equal(done.codes, working.stage.models[0].sample_codes(2, seed=seed))
        assert one.empty()


def test_a_broken_device_is_reported_and_comes_back(
    working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anytime_ar.serving.engine.worker._RETRY_S", 0.01)
    working.stage.models[0].fails = True
    lost = working.ask().get(timeout=PATIENCE_S)
    assert isinstance(lost, ServingError)
    assert lost.reason == "broken"
    wait_for(lambda: not working.worker.healthy, "the failure to be known")
    refused = working.ask().get(timeout=PATIENCE_S)
    assert isinstance(refused, ServingError)
    assert (refused.reason, refused.retry_after_s) == ("broken", 0.01)
    working.stage.models[0].fails = False
    wait_for(lambda: working.worker.healthy, "the device")
    assert isinstance(working.ask().get(timeout=PATIENCE_S), ResultEvent)


def test_a_device_that_is_broken_from_the_start_is_told_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anytime_ar.serving.engine.worker._RETRY_S", 0.01)
    made = Working(tmp_path, fails=True)
    first = made.ask().get(timeout=PATIENCE_S)  # while it tries to get warm
    assert isinstance(first, ServingError)
    assert first.reason == "broken"
    assert not made.worker.healthy
    made.stage.models[0].fails = False
    wait_for(lambda: made.worker.healthy, "warm models")
    assert isinstance(made.ask().get(timeout=PATIENCE_S), ResultEvent)
    made.worker.stop()


def test_a_turn_without_end_is_no_progress(working: Working) -> None:
    working.worker._iteration_started_at = working.stage.clock()
    assert working.worker.healthy
    working.stage.clock.now += STALL_TIMEOUT_S + 1
    assert not working.worker.healthy
    refused = working.ask().get(timeout=PATIENCE_S)
    assert isinstance(refused, ServingError)
    assert (refused.reason, refused.retry_after_s) == ("broken", STALL_TIMEOUT_S)
    working.worker._iteration_started_at = None


def test_kept_draws_are_forgotten_in_time_and_of_too_many_the_oldest(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    heard = stage.ask(2)
    stage.run()
    one = 2 * L * (4 + 8)
    sessions = SessionStore(10.0, stage.clock, max_bytes=3 * (SESSION_OVERHEAD_BYTES + one))
    for name in "abcd":
        sessions.put(name, heard.draw, heard.done.codes)
        stage.clock.now += 1
    assert [name for name in "abcd" if sessions.get(name)] == ["b", "c", "d"]
    kept = sessions.get("c")
    assert kept is not None
    assert torch.equal(kept.codes.long(), heard.done.codes)
    sessions.put("b", heard.draw, heard.done.codes)  # anew: as the latest
    stage.clock.now += 9
    assert [name for name in "bcd" if sessions.get(name)] == ["b"]
    assert len(sessions) == 1
    stage.clock.now += 1
    assert len(sessions) == 0


def test_draws_that_are_let_go_can_be_put_again_for_a_moment(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    heard = stage.ask(2)
    stage.run()
    sessions = SessionStore(100.0, stage.clock)
    for name in "abcd":
        sessions.put(name, heard.draw, heard.done.codes)
    sessions.release("b")
    stage.clock.now += RELEASE_GRACE_S - 1
    sessions.release("c")
    assert [name for name in "abcd" if sessions.get(name)] == [*"abcd"]
    assert [name for name in "abcd" if sessions.has(name)] == ["a", "d"]
    sessions.put("c", heard.draw, heard.done.codes)
    stage.clock.now += 1
    assert [name for name in "abcd" if sessions.get(name)] == ["a", "c", "d"]
    stage.clock.now += RELEASE_GRACE_S
    assert [name for name in "abcd" if sessions.has(name)] == ["a", "c", "d"]
    assert len(sessions) == 3


def test_what_a_kept_draw_takes_is_counted_whole(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    heard = stage.ask(1, top_p=[0.5] * L, temperature=[1.0] * L)
    stage.run()
    sessions, kept = SessionStore(100.0, stage.clock), 500
    tracemalloc.start()
    for i in range(kept):
        plan = stage.models[0].plan(1, seed=i, top_p=[0.5] * L, temperature=[1.0] * L)[0]
        sessions.put(f"a-draw-{i:06}", replace(heard.draw, plan=plan), heard.done.codes.clone())
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Tensors are not seen by it: three of them, with their numbers, and two strings beside.
    assert taken / kept < SESSION_OVERHEAD_BYTES / 2
