"""The Ray Serve application: the replicas, their pool, and the gateway."""

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
"""Limit of concurrent calls for Ray Serve, which is out of reach: replicas refuse calls first."""


_LOGGING = {"enable_access_log": False}
"""Logging settings of Ray Serve without its access log, since the gateway logs requests."""


class ReplicaDeployment:
    """The Ray Serve deployment of a replica."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, sources: Sequence[ModelSource], config: ServingConfig, threads: int
    ) -> None:
        """Load the models, start the serving engine and warm it up."""
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
            method: name of the method.
            arguments: positional arguments of the method.
            target_replica: name of the replica that the call is for.

        Yields:
            Replies of the replica.
        """
        del target_replica  # only the router reads it
        async with aclosing(getattr(self._replica, method)(*arguments)) as replies:
            async for reply in replies:
                yield reply

    async def call(
        self, method: str, *arguments: object, target_replica: str | None
    ) -> ReplicaReply:
        """Call a method of the replica and return its last reply.

        Ray makes a call with one result cheaper than a stream.

        Args:
            method: name of the method.
            arguments: positional arguments of the method.
            target_replica: name of the replica that the call is for.
        """
        last: ReplicaReply | None = None
        async for reply in self.stream(method, *arguments, target_replica=target_replica):
            last = reply
        assert last is not None
        return last

    def check_health(self) -> None:
        """Report a stalled engine. Ray Serve restarts a replica that fails this a few times.

        Raises:
            RuntimeError: the models make no progress.
        """
        if not self._engine.worker.healthy:
            raise RuntimeError("the models make no progress")


class RayReplicaPool:
    """A `ReplicaPool` that calls replicas through a Ray Serve handle.

    Args:
        handle: handle of the deployment of the replicas.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        """Create a pool from a handle of the deployment."""
        self._stream: Any = handle.options(stream=True, method_name="stream")
        self._call: Any = handle.options(method_name="call")

    def running(self) -> frozenset[str]:
        """Return the names of the running replicas; see `ReplicaPool`."""
        return running_replicas(_REPLICA_DEPLOYMENT)

    async def call(
        self, replica: str | None, method: str, *arguments: object
    ) -> AsyncGenerator[ReplicaReply]:
        """Call a method of a replica; see `ReplicaPool`."""
        streams = any(getattr(argument, "stream", False) for argument in arguments)
        handle = self._stream if streams else self._call
        response = handle.remote(method, *arguments, **{TARGET_KWARG: replica})
        ended = False
        try:
            if streams:
                async for reply in response:
                    yield reply
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
    """Return the Ray Serve application of a gateway and its replicas.

    Args:
        sources: of the models, the default one first.
        config: settings of the replicas.
        keys: client names by `key_digest` of their API keys; None: every client is accepted.
        hosts: values of the Host header that the gateway accepts.
        replicas: number of replicas.
        threads_per_replica: CPU cores of each replica.
        grace_s: seconds that a replica or the gateway may take to shut down.
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
        pool = RayReplicaPool(serve.get_deployment_handle(_REPLICA_DEPLOYMENT, app_name=APP))
        return Gateway(pool, config, keys, hosts)

    @serve.ingress(build)
    class GatewayDeployment:
        """The Ray Serve deployment of the gateway."""

        app: Gateway
        """The ASGI application, which `serve.ingress` sets."""

        def __init__(self, engine: DeploymentHandle[Any]) -> None:
            """Accept the handle of the replicas, so that Ray starts them first."""
            del engine  # passed only to start the replicas first

        async def drain(self, timeout_s: float) -> None:
            """Drain the gateway; see `Gateway.drain`."""
            await self.app.drain(timeout_s)

    gateway: Any = serve.deployment(
        GatewayDeployment,
        name="gateway",
        ray_actor_options={"num_cpus": 0},
        logging_config=_LOGGING,
        max_ongoing_requests=_MAX_ONGOING_CALLS,
        graceful_shutdown_timeout_s=grace_s,
        graceful_shutdown_wait_loop_s=0.1,
    )
    return gateway.bind(engine.bind(sources, config, threads_per_replica))
