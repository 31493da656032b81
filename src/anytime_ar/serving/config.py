"""How to serve. Imports nothing that serving needs beyond the core, so that the command line can
tell its options wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from anytime_ar.config import Config
from anytime_ar.prior import PrecisionOption
from anytime_ar.sampling import AnytimeModel, load
from anytime_ar.serving.engine.fairness import OverloadPolicy


class ServingConfig(Config):
    """What is promised to those who draw."""

    slots: int = Field(64, ge=1, le=4096)
    """Rows of a model drawn at once, as far as memory goes; guided samples take two."""
    deadline_s: float = Field(30.0, gt=0, allow_inf_nan=False)
    """The deadline of requests that have none, and the longest one."""
    session_ttl_s: float = Field(300.0, ge=0, allow_inf_nan=False)
    """How long a draw can be continued after its end."""
    policy: OverloadPolicy = "elastic"
    """What gives way under load; `elastic` unless to compare."""


class ServerConfig(ServingConfig):
    """How to serve over HTTP."""

    host: str = "127.0.0.1"
    """Address to listen at; only this machine by default."""
    port: int = Field(8000, ge=0, le=65535)
    """0: a free one."""
    allowed_hosts: str = ""
    """Names, with commas between, that the server answers to beside its own (localhost, --host, and
    the machine's name); `*.example.org` is all below example.org, `*` is every name. IP addresses
    need not be named with --host 0.0.0.0."""
    grace_s: float = Field(10.0, gt=0, allow_inf_nan=False)
    """How long the server may take to end: all draws are answered within it."""

    @property
    def allowed_host_names(self) -> list[str]:
        """Those of `allowed_hosts`."""
        return [name for part in self.allowed_hosts.split(",") if (name := part.strip())]


@dataclass(frozen=True)
class ModelSource:
    """Of one model."""

    name: str
    """By which clients know it."""
    location: str
    """Shipped name, folder, or Hub id."""
    device: str
    precision: PrecisionOption


def load_models(sources: Sequence[ModelSource]) -> dict[str, AnytimeModel]:
    """The models, by name.

    Raises:
        InputError: one cannot be loaded.
    """
    return {
        source.name: load(source.location, device=source.device, precision=source.precision)
        for source in sources
    }
