"""Starting Ray, or joining a cluster of it, without a word."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from anytime_ar.errors import InputError, MissingExtraError, install_command
from anytime_ar.runtime.threads import available_cpus

_CONNECT_TIMEOUT_S = 10.0
_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers give way to everybody else, unless they are told that they are the work.
    "RAY_worker_niceness": "0",
}


def require_ray(part: str) -> Any:
    """The `ray` module, with a part of it such as `ray.data`.

    Raises:
        MissingExtraError: it is not installed.
    """
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray

        import_module(part)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"engine ray needs {error.name}; install it: {install_command('ray')}"
        ) from error
    return ray


@contextmanager
def ray_session(ray: Any, num_cpus: int) -> Iterator[None]:
    """On the cluster of RAY_ADDRESS, else on one of this machine, which ends with the block.

    Args:
        ray: the module.
        num_cpus: that workers will take; one of this machine has as many, whether there are or not.

    Raises:
        InputError: there is no cluster at RAY_ADDRESS.
    """
    ours = _connect(ray, num_cpus)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def check_ray_device(device: str) -> None:
    """Before Ray is started.

    Raises:
        InputError: Ray has no such devices.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {device}, and engine ray takes cpu, cuda or auto")


def choose_ray_device(ray: Any, device: str, num_workers: int) -> str:
    """`cpu` or `cuda` for workers, wherever they are.

    Args:
        ray: the module, connected.
        device: `cpu`, `cuda`, or `auto`: GPUs, if the cluster has one for each worker.
        num_workers: how many there are to be.

    Raises:
        InputError: there are fewer GPUs on this machine.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device == "auto":
        return "cuda" if gpus >= num_workers else "cpu"
    # A cluster may grow.
    if device == "cuda" and gpus < num_workers and not os.environ.get("RAY_ADDRESS"):
        raise InputError(
            f"{num_workers} workers, each with a GPU, are asked for, and this machine has {gpus}; ask "
            "for fewer, join a cluster by RAY_ADDRESS, or choose device cpu"
        )
    return device


def _connect(ray: Any, cores: int) -> bool:
    """Whether Ray was not in use here before."""
    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    handler = signal.getsignal(signal.SIGTERM)
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            _check_reachable(address)
            ray.init(**quiet)
        except OSError as error:
            raise InputError(
                f"no Ray cluster at RAY_ADDRESS={address} ({error}); start it, or unset it"
            ) from error
    else:  # not "auto", which joins clusters that end with another job, or are about to
        cores = max(available_cpus(), cores)
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # that of Ray ends the process without asking
    return True


def _check_reachable(address: str) -> None:
    """Ray itself would ask for minutes.

    Raises:
        OSError: nobody listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():  # not of "auto" and the like
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
