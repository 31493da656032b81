"""Configuration of a server, and the models that it loads.

The module imports nothing beyond the core package. The command line can therefore list the options
of `anytime serve` on machines where the extra packages for serving are not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from anytime_ar.config import Config
from anytime_ar.media.audio import require_audio
from anytime_ar.prior import PrecisionOption
from anytime_ar.sampling import AnytimeModel, load
from anytime_ar.serving.engine.fairness import OverloadPolicy


class ServingConfig(Config):
    """Limits and the overload policy of a serving engine."""

    slots: int = Field(64, ge=1, le=4096)
    """Batch rows of each model that are sampled at once, fewer if memory is short. A sample takes
    one row, or two with guidance."""
    deadline_s: float = Field(30.0, gt=0, allow_inf_nan=False)
    """Longest deadline in seconds, and the default of requests that name none."""
    session_ttl_s: float = Field(300.0, ge=0, allow_inf_nan=False)
    """Seconds after its end for which a sample can be refined."""
    policy: OverloadPolicy = "elastic"
    """What the server gives up under load: `elastic` draws fewer codes, `reject` refuses requests,
    `fixed` misses deadlines. The last two are for comparison."""


class ServerConfig(ServingConfig):
    """Configuration of a server that answers over HTTP."""

    host: str = "127.0.0.1"
    """Address to listen at. The default accepts connections from this machine only."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen at. With 0 the system chooses a free one."""
    allowed_hosts: str = ""
    """Further host names that the server answers to, separated by commas. It always answers to
    localhost, --host and the machine's name. `*.example.org` allows all names below example.org,
    `*` allows every name. With --host 0.0.0.0 all IP addresses are allowed."""
    grace_s: float = Field(10.0, gt=0, allow_inf_nan=False)
    """Seconds that the server may take to shut down, in which it answers all running requests."""

    @property
    def allowed_host_names(self) -> list[str]:
        """Return the host names in `allowed_hosts` as a list."""
        return [name for part in self.allowed_hosts.split(",") if (name := part.strip())]


@dataclass(frozen=True)
class ModelSource:
    """Name, location, device and precision of one model to load."""

    name: str
    """Name by which clients request the model."""
    location: str
    """Name of a shipped model, path of a bundle, or Hub id."""
    device: str
    """PyTorch device that the model runs on."""
    precision: PrecisionOption
    """Numeric precision of the prior's weights."""


def load_models(sources: Sequence[ModelSource]) -> dict[str, AnytimeModel]:
    """Load the models of a server.

    Args:
        sources: Name, location, device and precision of each model.

    Returns:
        The loaded models, by the names that clients use.

    Raises:
        InputError: A model cannot be loaded.
        MissingExtraError: A model is of audio, and the extra `audio` is not installed.
    """
    models = {
        source.name: load(source.location, device=source.device, precision=source.precision)
        for source in sources
    }
    for model in models.values():
        if model.sample_rate is not None:
            require_audio()
    return models
