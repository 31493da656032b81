"""Start a cluster on Ray Serve, run it until a signal, and shut it down."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anytime_ar.errors import InputError
from anytime_ar.runtime.ray_cluster import (
    check_ray_device,
    choose_ray_device,
    ray_session,
    require_ray,
)
from anytime_ar.serving.config import ModelSource, ServerConfig
from anytime_ar.serving.http.middleware import AllowedHosts
from anytime_ar.serving.http.server import DRAIN_SHARE, listen, url_of
from anytime_ar.serving.logs import log_event

_POLL_S = 0.1
"""Seconds between two checks of the stop event."""


def serve_cluster(
    sources: Sequence[ModelSource],
    config: ServerConfig,
    *,
    replicas: int,
    threads_per_replica: int,
    keys: Mapping[bytes, str] | None,
    on_listening: Callable[[str], None],
) -> None:
    """Serve models on Ray Serve until SIGTERM or SIGINT.

    It uses the cluster of RAY_ADDRESS. Without one it starts a cluster on this machine and ends it.

    Args:
        sources: of the models, the default one first; all for the same device, which is `cpu`,
            `cuda`, or `auto`: GPUs, if the cluster has one for each replica.
        config: settings of the server.
        replicas: number of replicas.
        threads_per_replica: CPU cores of each replica.
        keys: client names by `key_digest` of their API keys; None: every client is accepted.
        on_listening: called with the URL once the server accepts requests.

    Raises:
        InputError: the cluster has too few cores or GPUs, the server cannot listen at the address,
            or an allowed host name is invalid.
    """
    check_ray_device(sources[0].device)
    hosts = AllowedHosts.for_server(config.host, config.allowed_host_names)
    with listen(config.host, config.port) as sock:  # Ray Serve would not report a taken port
        port, url = sock.getsockname()[1], url_of(sock)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ray = require_ray("ray.serve")
    with ray_session(ray, replicas * threads_per_replica):
        _check_cores(ray, replicas, threads_per_replica)
        device = choose_ray_device(ray, sources[0].device, replicas)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        from anytime_ar.serving.cluster.ray_serve import APP, build_application

        application = build_application(
            [replace(source, device=device) for source in sources],
            config,
            keys,
            hosts,
            replicas=replicas,
            threads_per_replica=threads_per_replica,
            grace_s=config.grace_s,
        )
        try:
            ray.serve.start(
                http_options={"host": config.host, "port": port},
                logging_config={"enable_access_log": False},
            )
            gateway = ray.serve.run(application, name=APP)
            on_listening(url)
            log_event("ready")
            while not ended.wait(_POLL_S):
                pass
            log_event("draining")
            try:
                gateway.drain.remote(DRAIN_SHARE * config.grace_s).result(timeout_s=config.grace_s)
            except TimeoutError:
                log_event("the gateway does not reply; running requests may be lost")
        finally:
            ray.serve.delete(APP)
            if not ray.serve.status().applications:  # none of another program
                ray.serve.shutdown()
    log_event("ended")


def _check_cores(ray: Any, replicas: int, threads_per_replica: int) -> None:
    cores = int(ray.cluster_resources().get("CPU", 0))
    if cores < replicas * threads_per_replica:  # Ray would wait for ever
        raise InputError(
            f"replicas={replicas} with threads={threads_per_replica} need "
            f"{replicas * threads_per_replica} cores, and the cluster has {cores}; pass fewer, or "
            "add machines"
        )
