"""The HTTP API of a fleet, as an ASGI application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from anytime_ar.fleet.front import GatewayCodecService, GatewayModels, GatewaySampleService
from anytime_ar.fleet.relay import Dispatcher, ReplicaPool
from anytime_ar.serving.app import build_app
from anytime_ar.serving.config import ServingConfig
from anytime_ar.serving.guard import ASGIApp, Receive, RequestMiddleware, Scope, Send
from anytime_ar.serving.hosts import AllowedHosts
from anytime_ar.serving.lag import EventLoopLag
from anytime_ar.serving.logs import log_event
from anytime_ar.serving.schema import ModelList
from anytime_ar.serving.watch import Monitor

_DRAIN_POLL_S = 0.02


class Gateway:
    """Built at its start, as it has to ask a replica what it serves.

    Args:
        pool: reaches replicas.
        config: that they give.
        keys: names of clients by `key_digest` of their keys; None: everyone may come.
        hosts: names that are answered to.
        clock: gives seconds.
    """

    def __init__(
        self,
        pool: ReplicaPool,
        config: ServingConfig,
        keys: Mapping[bytes, str] | None,
        hosts: AllowedHosts,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._pool, self._config, self._clock = pool, config, clock
        self._keys, self._hosts = keys, hosts
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        else:
            assert self._app is not None
            await self._app(scope, receive, send)

    async def drain(self, timeout_s: float) -> None:
        """Take in nothing more, and be done with all there is within some seconds."""
        self._samples.draining = True
        log_event("draining", draws=len(self._samples))
        await self._dispatcher.broadcast("drain", timeout_s)
        until = self._clock() + timeout_s
        while len(self._samples) and self._clock() < until:
            await asyncio.sleep(_DRAIN_POLL_S)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        beside = await self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in beside:
            task.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> list[asyncio.Future[None]]:
        relay = self._dispatcher = Dispatcher(self._pool, self._clock)
        answer = await _describe_models(self._pool, relay)
        names = [model.name for model in answer.models]
        draws = self._samples = GatewaySampleService(relay, self._config, self._clock)
        watch = Monitor(
            lambda: relay.stats(names), lambda: relay.ready and not draws.draining, self._clock
        )
        app = build_app(GatewayModels(answer), draws, GatewayCodecService(relay), watch)
        lag = EventLoopLag(self._clock)
        self._app = RequestMiddleware(
            app,
            keys=self._keys,
            hosts=self._hosts,
            clock=self._clock,
            lag=lag,
            observe=watch.observe,
        )
        return [asyncio.ensure_future(work) for work in (lag.measure(), relay.poll_replicas())]


async def _describe_models(pool: ReplicaPool, dispatcher: Dispatcher) -> ModelList:
    """What the first replica says that it serves."""
    async for told in pool.call(None, "describe"):
        dispatcher.load_balancer.report(told.replica, told.state)
        assert isinstance(told.payload, ModelList)
        return told.payload
    raise AssertionError("a replica describes what it serves")
