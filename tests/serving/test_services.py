"""Requests to draw, between HTTP and the worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from serving_fakes import Stage, V

from anytime_ar.errors import InputError
from anytime_ar.serving.engine.codec_service import CodecService
from anytime_ar.serving.engine.jobs import CodecResultEvent, Job, RequestContext, ServingError
from anytime_ar.serving.engine.models import ModelRegistry
from anytime_ar.serving.engine.responses import timing
from anytime_ar.serving.engine.sample_service import ConflictError, SampleService
from anytime_ar.serving.engine.session_store import SessionStore
from anytime_ar.serving.engine.worker import ThreadBridge, Worker
from anytime_ar.serving.schema import DecodeRequest, EncodeRequest, SampleRequest


class Idle(Worker):
    """Takes jobs and does nothing."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)


def test_of_two_requests_made_before_either_begins_one_has_the_id(tmp_path: Path) -> None:
    stage, worker = Stage(tmp_path), Idle()

    async def play() -> None:
        bridge = ThreadBridge(asyncio.get_running_loop())
        sessions = SessionStore(10.0, stage.clock)
        samples = SampleService(
            ModelRegistry(stage.scheduler.runners), worker, bridge, sessions, max_deadline_s=30.0
        )
        request = SampleRequest(id="one-of-many")
        first, second = (
            samples.sample(request, RequestContext(stage.clock, stage.clock(), client="a"))
            for _ in range(2)
        )
        waiting = asyncio.ensure_future(anext(first))
        await asyncio.sleep(0)
        with pytest.raises(ConflictError, match="still being generated"):
            await anext(second)
        assert len(worker.jobs) == len(samples) == 1
        worker.jobs[0].listener(ServingError("broken", "it is over"))
        with pytest.raises(ServingError, match="it is over"):
            await waiting
        assert len(samples) == 0

    asyncio.run(play())


@pytest.mark.parametrize(("deadline_ms", "seconds"), [(500.0, 0.5), (60_000.0, 30.0), (None, 30.0)])
def test_a_deadline_counts_from_the_arrival_and_has_a_limit(
    tmp_path: Path, deadline_ms: float | None, seconds: float
) -> None:
    stage, worker = Stage(tmp_path), Idle()
    context = RequestContext(stage.clock, stage.clock(), client="a")

    async def play() -> None:
        bridge = ThreadBridge(asyncio.get_running_loop())
        sessions, models = SessionStore(10.0, stage.clock), ModelRegistry(stage.scheduler.runners)
        samples = SampleService(models, worker, bridge, sessions, max_deadline_s=30.0)
        waiting = asyncio.ensure_future(
            anext(samples.sample(SampleRequest(deadline_ms=deadline_ms), context))
        )
        await asyncio.sleep(0)
        worker.jobs[0].listener(ServingError("broken", "it is over"))
        with pytest.raises(ServingError, match="it is over"):
            await waiting

    asyncio.run(play())
    assert worker.jobs[0].deadline == pytest.approx(context.arrival + seconds)
    expected = None if deadline_ms is None else pytest.approx(context.arrival + seconds)
    assert context.deadline == expected


def test_codes_and_files_that_are_none_are_refused_before_any_job(tmp_path: Path) -> None:
    stage, worker = Stage(tmp_path), Idle()
    context = RequestContext(stage.clock, stage.clock(), client="a")

    async def play() -> None:
        bridge = ThreadBridge(asyncio.get_running_loop())
        models = ModelRegistry(stage.scheduler.runners)
        codecs = CodecService(models, worker, bridge, max_deadline_s=30.0)
        for codes, message in (
            (((0, 1), (0,)), "samples have different numbers of codes"),
            (((0, V),), f"codes: {V} is not a code of this model; pass 0..{V - 1}"),
            (((0, -1),), "codes: -1 is not a code of this model"),
        ):
            with pytest.raises(InputError, match=message):
                await codecs.decode(DecodeRequest(codes=codes), context)
        for text in ("AA!AA", "AAA"):
            with pytest.raises(InputError, match=r"samples\.0: is not valid base64"):
                await codecs.encode(EncodeRequest(samples=(text,)), context)

    asyncio.run(play())
    assert not worker.jobs


def test_the_timing_of_a_codec_job_has_no_sampling(tmp_path: Path) -> None:
    clock = Stage(tmp_path).clock
    context = RequestContext(clock, clock() - 0.5, client="a")
    done = CodecResultEvent(torch.zeros(1, 2), queue_s=0.125, compute_s=0.25)
    found = timing(done, context)
    assert (found.queue_ms, found.sampling_ms, found.decode_ms) == (125.0, 0.0, 250.0)
    assert (found.total_ms, found.late_ms) == (500.0, None)
    context.deadline = clock() + 2.0
    assert timing(done, context).late_ms == -2000.0
