"""Requests to draw, between HTTP and the worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from serving_fakes import Stage

from anytime_ar.serving.engine.jobs import Job, RequestContext, ServingError
from anytime_ar.serving.engine.models import ModelRegistry
from anytime_ar.serving.engine.sample_service import ConflictError, SampleService
from anytime_ar.serving.engine.session_store import SessionStore
from anytime_ar.serving.engine.worker import ThreadBridge, Worker
from anytime_ar.serving.schema import SampleRequest


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
