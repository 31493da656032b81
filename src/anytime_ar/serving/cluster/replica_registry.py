"""The replicas that this process can call, by deployment.

Ray Serve loads its routers from a copy of their module. All copies share this module instead.
"""

from __future__ import annotations

from collections.abc import Iterable

_running: dict[str, frozenset[str]] = {}


def running_replicas(deployment: str) -> frozenset[str]:
    """Return the names of the running replicas of a deployment."""
    return _running.get(deployment, frozenset())


def set_running_replicas(deployment: str, replicas: Iterable[str]) -> None:
    """Replace the names of the running replicas of a deployment."""
    _running[deployment] = frozenset(replicas)
