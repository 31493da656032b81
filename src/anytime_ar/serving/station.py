"""Models and all that draws them, put together: what a server serves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Mapping

from anytime_ar.sampling import AnytimeModel
from anytime_ar.serving.call import Call
from anytime_ar.serving.computing import Computing
from anytime_ar.serving.config import Service
from anytime_ar.serving.draws import Draws
from anytime_ar.serving.jobs import Refused
from anytime_ar.serving.kept import Keeper
from anytime_ar.serving.lane import Lane
from anytime_ar.serving.logs import log_event
from anytime_ar.serving.mailroom import Mailroom
from anytime_ar.serving.occupancy import Occupancy, occupancy
from anytime_ar.serving.scheduler import Scheduler
from anytime_ar.serving.schema import SampleRequest
from anytime_ar.serving.served import Models
from anytime_ar.serving.worker import Worker, no_progress

_WATCH_S = 0.25


class Station:
    """Belongs to the event loop in which it is made.

    Args:
        models: with priors, by the names that clients use, the usual one first.
        service: that they get.
        clock: gives seconds.

    Raises:
        InputError: a model has no prior.
    """

    def __init__(
        self, models: Mapping[str, AnytimeModel], service: Service, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        lanes = {name: Lane(name, model, service.slots, clock) for name, model in models.items()}
        self._scheduler = Scheduler(lanes, clock, policy=service.policy)
        self.worker = Worker(self._scheduler)
        self._mailroom = Mailroom(asyncio.get_running_loop())
        self.models = Models(lanes)
        longest_s = service.deadline_s
        keeper = Keeper(service.keep_s, clock)
        self.draws = Draws(self.models, self.worker, self._mailroom, keeper, longest_s=longest_s)
        self.computing = Computing(self.models, self.worker, self._mailroom, longest_s=longest_s)
        self._rehearsed = False

    @property
    def ready(self) -> bool:
        """Whether models are warm, and work."""
        return self._rehearsed and self.worker.progresses

    def work(self) -> dict[str, Occupancy]:
        """What goes on in each model."""
        return occupancy(self._scheduler)

    async def rehearse(self) -> None:
        """Answer a few requests for nobody: the first ones pay for much that is set up once."""
        for model in self._scheduler.lanes:
            for stream in (False, True):
                request = SampleRequest(model=model, stream=stream, codes=2)
                call = Call(self._clock, self._clock(), client="rehearsal")
                with contextlib.suppress(Refused):  # nobody promised anything
                    async for _ in self.draws.sample(request, call):
                        pass
        gc.collect()
        gc.freeze()  # what is here stays; to look through it all takes longer than deadlines
        self._rehearsed = True
        log_event("ready")

    async def watch_for_stuck(self) -> None:
        """Nobody else would tell those who wait for a model that makes no progress."""
        was_stuck = False
        while True:
            await asyncio.sleep(_WATCH_S)
            stuck = self.worker.stuck
            if stuck:
                self._mailroom.tell_all(no_progress())
            if stuck != was_stuck:
                was_stuck = stuck
                log_event("stuck: models make no progress" if stuck else "models go on")
