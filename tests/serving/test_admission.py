"""What admission control expects of running and of waiting jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from serving_fakes import DECODE_S, Stage

from anytime_ar.serving.engine.admission import QUEUE_TIME_SHARE, AdmissionControl
from anytime_ar.serving.engine.fairness import TARGET_UTILISATION
from anytime_ar.serving.engine.jobs import CodecJob, CodecResultEvent, JobEvent


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_decode_is_pending_if_the_next_code_completes_the_minimum(
    tmp_path: Path, kind: str
) -> None:
    stage = Stage(tmp_path, kind=kind)
    heard = stage.ask(2, floor=3)
    pending = []
    for _ in range(2):
        stage.scheduler.run_iteration()
        pending.append(stage.scheduler.admission.pending_decode_s([heard.draw]))
    assert pending == [0, pytest.approx(2 * DECODE_S)]


def test_waiting_jobs_are_to_be_done_in_half_of_their_mean_time(stage: Stage) -> None:
    admission = AdmissionControl(stage.scheduler.runners, stage.clock)  # nobody has asked before
    jobs = [stage.ask().draw for _ in range(2)]
    jobs[0].data_due, jobs[1].data_due = stage.clock.now + 0.04, stage.clock.now - 1.0
    period_s = QUEUE_TIME_SHARE * 0.04 / 2  # a late job has no time left, and not less than none
    min_s, extra_s = stage.scheduler.runners["tiny0"].remaining_work_s(jobs[0])
    share = (TARGET_UTILISATION * period_s - 2 * min_s) / (2 * extra_s)
    assert 0 < share < 1
    assert admission.client_shares(jobs) == {"a": pytest.approx(share)}
    assert admission.client_shares([]) == {}


def test_codec_jobs_are_timed_by_the_sample(stage: Stage) -> None:
    costs, now = stage.scheduler.admission.codec_costs, stage.clock.now

    def encode() -> torch.Tensor:
        stage.clock.now += 0.01
        return torch.zeros(2, 1)

    def job(chunks: int, chunk_size: int) -> CodecJob:
        return CodecJob(
            model="tiny0",
            client="a",
            arrival=now - 1.0,
            deadline=now + 10.0,
            listener=lambda _event: None,
            chunks=[encode] * chunks,
            chunk_size=chunk_size,
            num_samples=chunks * chunk_size,
            operation="encode",
        )

    pairs = job(chunks=5, chunk_size=2)
    assert [costs.run_chunk(pairs, stage.clock) for _ in range(4)] == [None] * 4
    assert costs.chunk_s(pairs) == costs.remaining_s(pairs) == pytest.approx(0.01)
    assert costs.remaining_s(job(chunks=3, chunk_size=4)) == pytest.approx(3 * 4 * 0.005)
    done = costs.run_chunk(pairs, stage.clock)
    assert isinstance(done, CodecResultEvent)
    assert done.result.shape == (10, 1)
    assert (done.queue_s, done.compute_s) == (pytest.approx(1.0), pytest.approx(0.05))


def test_a_codec_chunk_may_take_all_the_time_that_others_leave(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission, events = stage.scheduler.admission, list[JobEvent]()
    job = CodecJob(
        model="tiny0",
        client="a",
        arrival=stage.clock.now,
        deadline=stage.clock.now + 10.0,
        listener=events.append,
        chunks=[lambda: torch.zeros(1, 1)],
        chunk_size=1,
        num_samples=1,
        operation="encode",
    )
    chunk_s = admission.codec_costs.chunk_s(job)
    monkeypatch.setattr(admission, "min_slack_s", lambda _jobs: chunk_s - 1e-9)
    stage.scheduler.submit(job)
    stage.scheduler.run_iteration()
    assert not events
    monkeypatch.setattr(admission, "min_slack_s", lambda _jobs: chunk_s)
    stage.scheduler.run_iteration()
    assert isinstance(events[0], CodecResultEvent)
