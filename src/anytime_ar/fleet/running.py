"""A fleet from its start to its end."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anytime_ar.errors import InputError
from anytime_ar.fleet.sources import Source
from anytime_ar.ray_cluster import (
    check_workers_device,
    choose_workers_device,
    connected,
    require_ray,
)
from anytime_ar.serving.config import ServerConfig
from anytime_ar.serving.hosts import Hosts
from anytime_ar.serving.logs import log_event
from anytime_ar.serving.server import DRAW_SHARE, listen, url_of

_POLL_S = 0.1


def serve_fleet(
    sources: Sequence[Source],
    config: ServerConfig,
    *,
    replicas: int,
    threads: int,
    keys: Mapping[bytes, str] | None,
    listening: Callable[[str], None],
) -> None:
    """Serve models on Ray Serve until SIGTERM or SIGINT.

    On the cluster of RAY_ADDRESS, else on one of this machine, which ends with it.

    Args:
        sources: of the models, the usual one first; all for the same device, which is `cpu`,
            `cuda`, or `auto`: GPUs, if the cluster has one for each replica.
        config: how.
        replicas: how many there are.
        threads: cores of each.
        keys: names of clients by `key_digest` of their keys; None: everyone may come.
        listening: told the address, once requests are taken there.

    Raises:
        InputError: the cluster has not the cores or the GPUs, the address cannot be listened at, or
            a name of a host is none.
    """
    check_workers_device(sources[0].device)
    hosts = Hosts.of(config.host, config.allowed_names)
    with listen(config.host, config.port) as sock:  # Ray Serve would not say that it cannot
        port, url = sock.getsockname()[1], url_of(sock)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ray = require_ray("ray.serve")
    with connected(ray, replicas * threads):
        _check_room(ray, replicas, threads)
        device = choose_workers_device(ray, sources[0].device, replicas)
        placed = [replace(source, device=device) for source in sources]
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            _serve(
                placed, config, port, replicas, threads, keys, hosts, ended, lambda: listening(url)
            )
        finally:
            _leave(ray.serve)
    log_event("ended")


def _serve(
    sources: Sequence[Source],
    config: ServerConfig,
    port: int,
    replicas: int,
    threads: int,
    keys: Mapping[bytes, str] | None,
    hosts: Hosts,
    ended: threading.Event,
    listening: Callable[[], None],
) -> None:
    from ray import serve

    from anytime_ar.fleet.ray_serve import APP, application

    serve.start(
        http_options={"host": config.host, "port": port},
        logging_config={"enable_access_log": False},
    )
    front = serve.run(
        application(
            sources,
            config,
            keys,
            hosts,
            replicas=replicas,
            threads=threads,
            grace_s=config.grace_s,
        ),
        name=APP,
    )
    listening()
    log_event("ready")
    while not ended.wait(_POLL_S):
        pass
    log_event("draining")
    try:
        front.drain.remote(DRAW_SHARE * config.grace_s).result(timeout_s=config.grace_s)
    except TimeoutError:
        log_event("the front does not answer; what is under way may be lost")


def _leave(serve: Any) -> None:
    """Take our application out of Ray Serve, and end that if it has no other."""
    from anytime_ar.fleet.ray_serve import APP

    serve.delete(APP)
    if not serve.status().applications:
        serve.shutdown()


def _check_room(ray: Any, replicas: int, threads: int) -> None:
    cores = int(ray.cluster_resources().get("CPU", 0))
    if cores < replicas * threads:  # it would wait for ever
        raise InputError(
            f"replicas={replicas} of threads={threads} take {replicas * threads} cores, and the "
            f"cluster has {cores}; ask for fewer, or start more machines"
        )
