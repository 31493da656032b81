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

from anytime_ar.serving.cluster.gateway import Gateway
from anytime_ar.serving.cluster.load_balancer import ReplicaLostError
from anytime_ar.serving.cluster.ray_router import TARGET_KWARG, TargetReplicaRouter
from anytime_ar.serving.cluster.replica import Replica, ReplicaReply
from anytime_ar.serving.cluster.replica_registry import running_replicas
from anytime_ar.serving.config import ModelSource, ServingConfig, load_models
from anytime_ar.serving.engine.serving_engine import ServingEngine
from anytime_ar.serving.http.middleware import AllowedHosts
from anytime_ar.serving.http.server import SWITCH_INTERVAL_S
from anytime_ar.serving.logs import log_to_stderr

APP = "anytime"
_REPLICA_DEPLOYMENT = "replica"
_MAX_ONGOING_CALLS = 100_000
"""Of a replica at once: it says itself when it has enough."""


_LOGGING = {"enable_access_log": False}
"""We log requests ourselves."""


class ReplicaDeployment:
    """A replica, as Ray Serve knows it."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, sources: Sequence[ModelSource], config: ServingConfig, threads: int
    ) -> None:
        import torch

        log_to_stderr()
        torch.set_num_threads(threads)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._engine = ServingEngine(load_models(sources), config, time.perf_counter)
        name = serve.get_replica_context().replica_id.unique_id
        self._replica = Replica(name, self._engine, time.perf_counter)
        self._engine.worker.start()
        self._watching = asyncio.ensure_future(self._engine.watch_for_stalls())
        await self._engine.warm_up()

    async def stream(
        self, method: str, *arguments: object, target_replica: str | None
    ) -> AsyncGenerator[ReplicaReply]:
        """Call a method of the replica.

        Args:
            method: its name.
            arguments: of it.
            target_replica: the replica that the call was meant for.
        """
        del target_replica  # what the router goes by
        async with aclosing(getattr(self._replica, method)(*arguments)) as telling:
            async for told in telling:
                yield told

    async def call(
        self, method: str, *arguments: object, target_replica: str | None
    ) -> ReplicaReply:
        """The same, of which only the last thing is told: a call of Ray that brings one thing costs
        less than one that may bring many."""
        last: ReplicaReply | None = None
        async for told in self.stream(method, *arguments, target_replica=target_replica):
            last = told
        assert last is not None
        return last

    def check_health(self) -> None:
        """Ray Serve starts a replica again that fails this a few times.

        Raises:
            RuntimeError: the models do not work.
        """
        if not self._engine.worker.healthy:
            raise RuntimeError("the models make no progress")


class RayReplicaPool:
    """Reaches replicas through a handle.

    Args:
        handle: of their deployment.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._stream: Any = handle.options(stream=True, method_name="stream")
        self._call: Any = handle.options(method_name="call")

    def running(self) -> frozenset[str]:
        """See `ReplicaPool`."""
        return running_replicas(_REPLICA_DEPLOYMENT)

    async def call(
        self, replica: str | None, method: str, *arguments: object
    ) -> AsyncGenerator[ReplicaReply]:
        """See `ReplicaPool`."""
        streams = any(getattr(argument, "stream", False) for argument in arguments)
        handle = self._stream if streams else self._call
        response = handle.remote(method, *arguments, **{TARGET_KWARG: replica})
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
            raise ReplicaLostError(f"{replica}: {str(error).splitlines()[0]}") from error
        finally:
            if not ended:
                response.cancel()


def build_application(
    sources: Sequence[ModelSource],
    config: ServingConfig,
    keys: Mapping[bytes, str] | None,
    hosts: AllowedHosts,
    *,
    replicas: int,
    threads_per_replica: int,
    grace_s: float,
) -> serve.Application:
    """All that Ray Serve has to know.

    Args:
        sources: of the models, the usual one first.
        config: that they give.
        keys: names of clients by `key_digest` of their keys; None: everyone may come.
        hosts: names that are answered to.
        replicas: how many there are.
        threads_per_replica: cores of each.
        grace_s: how long one may take to end.
    """
    gpu = any(source.device == "cuda" for source in sources)
    engine: Any = serve.deployment(
        ReplicaDeployment,
        name=_REPLICA_DEPLOYMENT,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": threads_per_replica, "num_gpus": 1 if gpu else 0},
        max_ongoing_requests=_MAX_ONGOING_CALLS,
        request_router_config=RequestRouterConfig(request_router_class=TargetReplicaRouter),  # type: ignore[arg-type]
        logging_config=_LOGGING,
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=grace_s,
        graceful_shutdown_wait_loop_s=0.1,
    )

    def build() -> Gateway:
        log_to_stderr()
        crew = RayReplicaPool(serve.get_deployment_handle(_REPLICA_DEPLOYMENT, app_name=APP))
        return Gateway(crew, config, keys, hosts)

    @serve.ingress(build)
    class GatewayDeployment:
        """HTTP, for all replicas."""

        app: Gateway

        def __init__(self, engine: DeploymentHandle[Any]) -> None:
            del engine  # it is there, and started before

        async def drain(self, within_s: float) -> None:
            """See `Gateway.drain`."""
            await self.app.drain(within_s)

    front: Any = serve.deployment(
        GatewayDeployment,
        name="gateway",
        ray_actor_options={"num_cpus": 0},
        logging_config=_LOGGING,
        max_ongoing_requests=_MAX_ONGOING_CALLS,
        graceful_shutdown_timeout_s=grace_s,
        graceful_shutdown_wait_loop_s=0.1,
    )
    return front.bind(engine.bind(sources, config, threads_per_replica))
