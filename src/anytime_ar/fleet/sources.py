"""Where replicas find their models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anytime_ar.prior import PrecisionChoice
from anytime_ar.sampling import AnytimeModel, load


@dataclass(frozen=True)
class Source:
    """Of one model."""

    name: str
    """By which clients know it."""
    where: str
    """Shipped name, folder, or Hub id."""
    device: str
    precision: PrecisionChoice


def load_all(sources: Sequence[Source]) -> dict[str, AnytimeModel]:
    """The models, by name.

    Raises:
        InputError: one cannot be loaded.
    """
    return {
        source.name: load(source.where, device=source.device, precision=source.precision)
        for source in sources
    }
