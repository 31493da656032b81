"""What reads and writes the samples of a model: chosen here, once."""

from __future__ import annotations

from anytime_ar.cli.pictures import ImageFiles, SampleFiles
from anytime_ar.cli.sounds import AudioFiles
from anytime_ar.sampling import AnytimeModel

SAMPLE_FILES: dict[int, type[SampleFiles]] = {3: ImageFiles, 2: AudioFiles}
"""By the number of dimensions of a sample."""


def sample_files_for(model: AnytimeModel) -> SampleFiles:
    """What reads and writes the samples of a model."""
    return SAMPLE_FILES[len(model.sample_shape)](model)
