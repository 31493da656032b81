"""Where replicas find their models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anytime_ar.prior import PrecisionOption
from anytime_ar.sampling import AnytimeModel, load


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
