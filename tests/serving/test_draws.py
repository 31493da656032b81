"""Requests to draw, between HTTP and the worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from serving_fakes import Stage

from anytime_ar.serving.call import Call
from anytime_ar.serving.draws import Conflict, Draws
from anytime_ar.serving.jobs import Job, Refused
from anytime_ar.serving.kept import Keeper
from anytime_ar.serving.mailroom import Mailroom
from anytime_ar.serving.schema import SampleRequest
from anytime_ar.serving.served import Models
from anytime_ar.serving.worker import Worker


class Idle(Worker):
    """Takes jobs and does nothing."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)


def test_of_two_requests_made_before_either_begins_one_has_the_id(tmp_path: Path) -> None:
    stage, worker = Stage(tmp_path), Idle()

    async def play() -> None:
        mailroom = Mailroom(asyncio.get_running_loop())
        keeper = Keeper(10.0, stage.clock)
        draws = Draws(Models(stage.scheduler.lanes), worker, mailroom, keeper, longest_s=30.0)
        request = SampleRequest(id="one-of-many")
        first, second = (
            draws.sample(request, Call(stage.clock, stage.clock(), client="a")) for _ in range(2)
        )
        waiting = asyncio.ensure_future(anext(first))
        await asyncio.sleep(0)
        with pytest.raises(Conflict, match="still under way"):
            await anext(second)
        assert len(worker.jobs) == len(draws) == 1
        worker.jobs[0].listener(Refused("broken", "it is over"))
        with pytest.raises(Refused, match="it is over"):
            await waiting
        assert len(draws) == 0

    asyncio.run(play())
