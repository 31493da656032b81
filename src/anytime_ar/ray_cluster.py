"""Ray, quietly: the cluster that RAY_ADDRESS names, or one of this machine for the time being."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from anytime_ar.errors import InputError, MissingExtraError

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
_NOT_NICE = {"RAY_worker_niceness": "0"}
"""Workers of Ray give way to everybody else, unless they are told that they are the work."""


def require_ray(part: str) -> Any:
    """The `ray` module, with a part such as `data`.

    Raises:
        MissingExtraError: it is not installed.
    """
    for name, value in (_QUIET | _NOT_NICE).items():
        os.environ.setdefault(name, value)
    try:
        import_module(f"ray.{part}")
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"engine ray needs {error.name}; install it: pip install 'anytime-ar[ray]'"
        ) from error


@contextmanager
def cluster(part: str, cores: int) -> Iterator[Any]:
    """The `ray` module, connected; a cluster that was begun for it ends with it.

    Args:
        part: of Ray that is needed.
        cores: that a cluster of this machine has at least, whether or not it has as many.

    Raises:
        InputError: there is no cluster at RAY_ADDRESS.
        MissingExtraError: Ray is not installed.
    """
    ray = require_ray(part)
    if ray.is_initialized():
        yield ray
        return
    _connect(ray, cores)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, cores: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    handler = signal.getsignal(signal.SIGTERM)
    if os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(**quiet)
        except ConnectionError as error:
            raise InputError(
                f"no Ray cluster at RAY_ADDRESS={os.environ['RAY_ADDRESS']}; start it, or unset it"
            ) from error
    else:  # not "auto", which joins clusters that end with another job, or are about to
        cores = max(os.cpu_count() or 1, cores)
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # that of Ray ends the process without asking
