"""What reads and writes the samples of a model: chosen here, once."""

from __future__ import annotations

from anytime_ar.cli.pictures import Media, Pictures
from anytime_ar.cli.sounds import Sounds
from anytime_ar.sampling import AnytimeModel

MEDIA: dict[int, type[Media]] = {3: Pictures, 2: Sounds}
"""By the number of dimensions of a sample."""


def media_of(model: AnytimeModel) -> Media:
    """What reads and writes the samples of a model."""
    return MEDIA[len(model.sample_shape)](model)
