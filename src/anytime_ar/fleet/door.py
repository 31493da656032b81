"""The HTTP API of a fleet, as an ASGI application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from anytime_ar.fleet.front import FleetComputing, FleetDraws, FleetModels
from anytime_ar.fleet.relay import Crew, Relay
from anytime_ar.serving.app import build_app
from anytime_ar.serving.config import Service
from anytime_ar.serving.guard import App, Guard, Receive, Scope, Send
from anytime_ar.serving.hosts import Hosts
from anytime_ar.serving.lag import Lag
from anytime_ar.serving.logs import log_event
from anytime_ar.serving.schema import ModelsAnswer
from anytime_ar.serving.watch import Watch

_POLL_S = 0.02


class Door:
    """Built at its start, as it has to ask a replica what it serves.

    Args:
        crew: reaches replicas.
        service: that they give.
        keys: names of clients by `key_digest` of their keys; None: everyone may come.
        hosts: names that are answered to.
        clock: gives seconds.
    """

    def __init__(
        self,
        crew: Crew,
        service: Service,
        keys: Mapping[bytes, str] | None,
        hosts: Hosts,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._crew, self._service, self._clock = crew, service, clock
        self._keys, self._hosts = keys, hosts
        self._app: App | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            assert self._app is not None
            await self._app(scope, receive, send)

    async def drain(self, within_s: float) -> None:
        """Take in nothing more, and be done with all there is within some seconds."""
        self._draws.draining = True
        log_event("draining", draws=len(self._draws))
        await self._relay.tell_all("drain", within_s)
        until = self._clock() + within_s
        while len(self._draws) and self._clock() < until:
            await asyncio.sleep(_POLL_S)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        beside = await self._open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in beside:
            task.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _open(self) -> list[asyncio.Future[None]]:
        relay = self._relay = Relay(self._crew, self._clock)
        answer = await _described(self._crew, relay)
        names = [model.name for model in answer.models]
        draws = self._draws = FleetDraws(relay, self._service, self._clock)
        watch = Watch(
            lambda: relay.work(names), lambda: relay.ready and not draws.draining, self._clock
        )
        app = build_app(FleetModels(answer), draws, FleetComputing(relay), watch)
        lag = Lag(self._clock)
        self._app = Guard(
            app,
            keys=self._keys,
            hosts=self._hosts,
            clock=self._clock,
            lag=lag,
            observe=watch.observe,
        )
        return [asyncio.ensure_future(work) for work in (lag.watch(), relay.watch())]


async def _described(crew: Crew, relay: Relay) -> ModelsAnswer:
    """What the first replica says that it serves."""
    async for told in crew.call(None, "describe"):
        relay.places.told(told.replica, told.state)
        assert isinstance(told.answer, ModelsAnswer)
        return told.answer
    raise AssertionError("a replica describes what it serves")
