"""A fleet from its start to its end."""

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

    On the cluster of RAY_ADDRESS, else on one of this machine, which ends with it.

    Args:
        sources: of the models, the usual one first; all for the same device, which is `cpu`,
            `cuda`, or `auto`: GPUs, if the cluster has one for each replica.
        config: how.
        replicas: how many there are.
        threads_per_replica: cores of each.
        keys: names of clients by `key_digest` of their keys; None: everyone may come.
        on_listening: told the address, once requests are taken there.

    Raises:
        InputError: the cluster has not the cores or the GPUs, the address cannot be listened at, or
            a name of a host is none.
    """
    check_ray_device(sources[0].device)
    hosts = AllowedHosts.for_server(config.host, config.allowed_host_names)
    with listen(config.host, config.port) as sock:  # Ray Serve would not say that it cannot
        port, url = sock.getsockname()[1], url_of(sock)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ray = require_ray("ray.serve")
    with ray_session(ray, replicas * threads_per_replica):
        _check_cores(ray, replicas, threads_per_replica)
        device = choose_ray_device(ray, sources[0].device, replicas)
        placed = [replace(source, device=device) for source in sources]
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            _run_application(
                placed,
                config,
                port,
                replicas,
                threads_per_replica,
                keys,
                hosts,
                ended,
                lambda: on_listening(url),
            )
        finally:
            _delete_application(ray.serve)
    log_event("ended")


def _run_application(
    sources: Sequence[ModelSource],
    config: ServerConfig,
    port: int,
    replicas: int,
    threads_per_replica: int,
    keys: Mapping[bytes, str] | None,
    hosts: AllowedHosts,
    stop_event: threading.Event,
    on_listening: Callable[[], None],
) -> None:
    from ray import serve

    from anytime_ar.serving.cluster.ray_serve import APP, build_application

    serve.start(
        http_options={"host": config.host, "port": port},
        logging_config={"enable_access_log": False},
    )
    front = serve.run(
        build_application(
            sources,
            config,
            keys,
            hosts,
            replicas=replicas,
            threads_per_replica=threads_per_replica,
            grace_s=config.grace_s,
        ),
        name=APP,
    )
    on_listening()
    log_event("ready")
    while not stop_event.wait(_POLL_S):
        pass
    log_event("draining")
    try:
        front.drain.remote(DRAIN_SHARE * config.grace_s).result(timeout_s=config.grace_s)
    except TimeoutError:
        log_event("the front does not answer; what is under way may be lost")


def _delete_application(serve: Any) -> None:
    """Take our application out of Ray Serve, and end that if it has no other."""
    from anytime_ar.serving.cluster.ray_serve import APP

    serve.delete(APP)
    if not serve.status().applications:
        serve.shutdown()


def _check_cores(ray: Any, replicas: int, threads_per_replica: int) -> None:
    cores = int(ray.cluster_resources().get("CPU", 0))
    if cores < replicas * threads_per_replica:  # it would wait for ever
        raise InputError(
            f"replicas={replicas} of threads={threads_per_replica} take {replicas * threads_per_replica} cores, and the "
            f"cluster has {cores}; ask for fewer, or start more machines"
        )
