"""A fleet on Ray Serve, which places replicas on machines and starts those again that end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from anytime_ar.fleet.door import Door
from anytime_ar.fleet.messages import Told
from anytime_ar.fleet.ray_router import AIM, AimedRouter
from anytime_ar.fleet.relay import Lost
from anytime_ar.fleet.replica import Replica
from anytime_ar.fleet.roster import running_replicas
from anytime_ar.fleet.sources import Source, load_all
from anytime_ar.serving.config import Service
from anytime_ar.serving.hosts import Hosts
from anytime_ar.serving.logs import log_to_stderr
from anytime_ar.serving.server import SWITCH_S
from anytime_ar.serving.station import Station

APP = "anytime"
_ENGINE = "engine"
_MOST_CALLS = 100_000
"""Of a replica at once: it says itself when it has enough."""


_QUIET = {"enable_access_log": False}
"""We log requests ourselves."""


class Engine:
    """A replica, as Ray Serve knows it."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, sources: Sequence[Source], service: Service, threads: int
    ) -> None:
        import torch

        log_to_stderr()
        torch.set_num_threads(threads)
        sys.setswitchinterval(SWITCH_S)
        self._station = Station(load_all(sources), service, time.perf_counter)
        name = serve.get_replica_context().replica_id.unique_id
        self._replica = Replica(name, self._station, time.perf_counter)
        self._station.worker.start()
        self._watching = asyncio.ensure_future(self._station.watch_for_stuck())
        await self._station.rehearse()

    async def tell(self, method: str, *arguments: object, aim: str | None) -> AsyncGenerator[Told]:
        """Call a method of the replica.

        Args:
            method: its name.
            arguments: of it.
            aim: the replica that the call was meant for.
        """
        del aim  # what the router goes by
        async with aclosing(getattr(self._replica, method)(*arguments)) as telling:
            async for told in telling:
                yield told

    async def tell_last(self, method: str, *arguments: object, aim: str | None) -> Told:
        """The same, of which only the last thing is told: a call of Ray that brings one thing costs
        less than one that may bring many."""
        last: Told | None = None
        async for told in self.tell(method, *arguments, aim=aim):
            last = told
        assert last is not None
        return last

    def check_health(self) -> None:
        """Ray Serve starts a replica again that fails this a few times.

        Raises:
            RuntimeError: the models do not work.
        """
        if not self._station.worker.progresses:
            raise RuntimeError("the models make no progress")


class RayCrew:
    """Reaches replicas through a handle.

    Args:
        handle: of their deployment.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._many: Any = handle.options(stream=True, method_name="tell")
        self._one: Any = handle.options(method_name="tell_last")

    def running(self) -> frozenset[str]:
        """See `Crew`."""
        return running_replicas(_ENGINE)

    async def call(
        self, replica: str | None, method: str, *arguments: object
    ) -> AsyncGenerator[Told]:
        """See `Crew`."""
        streams = any(getattr(argument, "stream", False) for argument in arguments)
        handle = self._many if streams else self._one
        response = handle.remote(method, *arguments, **{AIM: replica})
        ended = False
        try:
            if streams:
                async for told in response:
                    yield told
            else:
                yield await response
            ended = True
        except RayActorError as error:
            ended = True
            raise Lost(f"{replica}: {str(error).splitlines()[0]}") from error
        finally:
            if not ended:
                response.cancel()


def application(
    sources: Sequence[Source],
    service: Service,
    keys: Mapping[bytes, str] | None,
    hosts: Hosts,
    *,
    replicas: int,
    threads: int,
    grace_s: float,
) -> serve.Application:
    """All that Ray Serve has to know.

    Args:
        sources: of the models, the usual one first.
        service: that they give.
        keys: names of clients by `key_digest` of their keys; None: everyone may come.
        hosts: names that are answered to.
        replicas: how many there are.
        threads: cores of each.
        grace_s: how long one may take to end.
    """
    gpu = any(source.device == "cuda" for source in sources)
    engine: Any = serve.deployment(
        Engine,
        name=_ENGINE,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": threads, "num_gpus": 1 if gpu else 0},
        max_ongoing_requests=_MOST_CALLS,
        request_router_config=RequestRouterConfig(request_router_class=AimedRouter),  # type: ignore[arg-type]
        logging_config=_QUIET,
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=grace_s,
        graceful_shutdown_wait_loop_s=0.1,
    )

    def build() -> Door:
        log_to_stderr()
        crew = RayCrew(serve.get_deployment_handle(_ENGINE, app_name=APP))
        return Door(crew, service, keys, hosts)

    @serve.ingress(build)
    class Front:
        """HTTP, for all replicas."""

        app: Door

        def __init__(self, engine: DeploymentHandle[Any]) -> None:
            del engine  # it is there, and started before

        async def drain(self, within_s: float) -> None:
            """See `Door.drain`."""
            await self.app.drain(within_s)

    front: Any = serve.deployment(
        Front,
        name="front",
        ray_actor_options={"num_cpus": 0},
        logging_config=_QUIET,
        max_ongoing_requests=_MOST_CALLS,
        graceful_shutdown_timeout_s=grace_s,
        graceful_shutdown_wait_loop_s=0.1,
    )
    return front.bind(engine.bind(sources, service, threads))
