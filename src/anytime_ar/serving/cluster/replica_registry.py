"""Which replicas this process can call.

Ray Serve makes its routers by itself, from a copy of their module: a module of its own is what all
copies share.
"""

from __future__ import annotations

from collections.abc import Iterable

_running: dict[str, frozenset[str]] = {}


def running_replicas(deployment: str) -> frozenset[str]:
    """Names of those of a deployment."""
    return _running.get(deployment, frozenset())


def set_running_replicas(deployment: str, replicas: Iterable[str]) -> None:
    """There are these, and no others."""
    _running[deployment] = frozenset(replicas)
