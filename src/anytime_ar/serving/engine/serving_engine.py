"""The serving engine of one process: models, scheduler, worker thread, sessions and services."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Mapping

from anytime_ar.sampling import AnytimeModel
from anytime_ar.serving.config import ServingConfig
from anytime_ar.serving.engine.codec_service import CodecService
from anytime_ar.serving.engine.jobs import RequestContext, ServingError
from anytime_ar.serving.engine.models import ModelRegistry
from anytime_ar.serving.engine.runner import ModelRunner
from anytime_ar.serving.engine.sample_service import SampleService
from anytime_ar.serving.engine.scheduler import ModelStats, Scheduler, collect_stats
from anytime_ar.serving.engine.session_store import SessionStore
from anytime_ar.serving.engine.worker import ThreadBridge, Worker, stalled_error
from anytime_ar.serving.logs import log_event
from anytime_ar.serving.schema import SampleRequest

_STALL_POLL_S = 0.25


class ServingEngine:
    """An engine that serves models to the event loop in which it is created.

    Args:
        models: Models with priors by the names that clients use, the default model first.
        config: Limits and overload policy of the engine.
        clock: Clock of the engine, in seconds.

    Raises:
        InputError: A model has no prior.
    """

    def __init__(
        self, models: Mapping[str, AnytimeModel], config: ServingConfig, clock: Callable[[], float]
    ) -> None:
        """Create the scheduler, the worker and the services. The caller starts the worker."""
        self._clock = clock
        runners = {
            name: ModelRunner(name, model, config.slots, clock) for name, model in models.items()
        }
        self._scheduler = Scheduler(runners, clock, policy=config.policy)
        self.worker = Worker(self._scheduler)
        self._bridge = ThreadBridge(asyncio.get_running_loop())
        self.models = ModelRegistry(runners)
        max_deadline_s = config.deadline_s
        sessions = SessionStore(config.session_ttl_s, clock)
        self.sample_service = SampleService(
            self.models, self.worker, self._bridge, sessions, max_deadline_s=max_deadline_s
        )
        self.codec_service = CodecService(
            self.models, self.worker, self._bridge, max_deadline_s=max_deadline_s
        )
        self._warm = False

    @property
    def ready(self) -> bool:
        """Return whether the engine is warmed up and its models work."""
        return self._warm and self.worker.healthy

    def stats(self) -> dict[str, ModelStats]:
        """Return the load of each model, by name."""
        return collect_stats(self._scheduler)

    async def warm_up(self) -> None:
        """Run a few requests of its own, as the first requests take longer than later ones."""
        for model in self._scheduler.runners:
            for stream in (False, True):
                request = SampleRequest(model=model, stream=stream, codes=2)
                context = RequestContext(self._clock, self._clock(), client="warm-up")
                with contextlib.suppress(ServingError):  # warm-up requests may be refused
                    async for _ in self.sample_service.sample(request, context):
                        pass
        gc.collect()
        gc.freeze()  # a collection of these lasting objects takes longer than deadlines
        self._warm = True
        log_event("ready")

    async def watch_for_stalls(self) -> None:
        """End all waiting requests with an error while a model is stalled, until cancelled."""
        was_stalled = False
        while True:
            await asyncio.sleep(_STALL_POLL_S)
            stalled = self.worker.stalled
            if stalled:
                self._bridge.broadcast(stalled_error())
            if stalled != was_stalled:
                was_stalled = stalled
                log_event(
                    "stalled: models make no progress" if stalled else "models make progress again"
                )
