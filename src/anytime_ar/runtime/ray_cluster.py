"""Start Ray, or connect to a cluster, without output."""

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

from anytime_ar.errors import InputError, missing_extra_error
from anytime_ar.runtime.threads import available_cpus

_CONNECT_TIMEOUT_S = 10.0
"""Seconds to wait for a connection to the cluster."""
_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers otherwise run at a lower priority than all other processes.
    "RAY_worker_niceness": "0",
}
"""Environment variables for Ray, unless they are set already."""


def require_ray(part: str) -> Any:
    """Import the module `ray` and one of its parts.

    Args:
        part: name of the part, such as `ray.data`.

    Raises:
        MissingExtraError: it is not installed.
    """
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray

        import_module(part)
    except ModuleNotFoundError as error:
        raise missing_extra_error("engine ray", error.name, "ray") from error
    return ray


@contextmanager
def ray_session(ray: Any, num_cpus: int) -> Iterator[None]:
    """Use the cluster of RAY_ADDRESS in the block, else a local one that ends with the block.

    Args:
        ray: the module.
        num_cpus: CPUs that workers will reserve; a local cluster declares at least as many, even if
            the machine has fewer.

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
    """Check that Ray supports a device, before Ray is started.

    Args:
        device: name of the device.

    Raises:
        InputError: Ray has no such devices.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {device}, and engine ray takes cpu, cuda or auto")


def choose_ray_device(ray: Any, device: str, num_workers: int) -> str:
    """Return the device of workers, `cpu` or `cuda`.

    Args:
        ray: the module, connected to a cluster.
        device: `cpu`, `cuda`, or `auto`: GPUs if the cluster has one for each worker.
        num_workers: number of workers.

    Raises:
        InputError: the local machine has fewer GPUs than workers.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device == "auto":
        return "cuda" if gpus >= num_workers else "cpu"
    # A cluster may add machines.
    if device == "cuda" and gpus < num_workers and not os.environ.get("RAY_ADDRESS"):
        raise InputError(
            f"{num_workers} workers, each with a GPU, are asked for, and this machine has {gpus}; "
            "ask for fewer, join a cluster by RAY_ADDRESS, or choose device cpu"
        )
    return device


def _connect(ray: Any, cores: int) -> bool:
    """Connect to Ray, and return whether this process was not connected before.

    Raises:
        InputError: there is no cluster at RAY_ADDRESS.
    """
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
    else:  # not "auto", which joins clusters that may end with another job
        cores = max(available_cpus(), cores)
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's handler ends the process at once
    return True


def _check_reachable(address: str) -> None:
    """Check that a cluster accepts connections; Ray itself would try for minutes.

    Raises:
        OSError: nothing listens at the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():  # not for "auto" and the like
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
