"""Open the embedded data sets `digits` and `sounds`."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from anytime_ar.data.rows import DataSource, InMemoryRows, Row
from anytime_ar.errors import require_extras
from anytime_ar.media.audio import encode_audio

_NUM_CLIPS = 1800
"""Number of synthetic clips, about as many as there are digits."""


def digits_source() -> DataSource:
    """Return scikit-learn's 1797 digits, grayscale 8x8, with levels 0..16 scaled to 0..255.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    require_extras("data set digits", "train", module="sklearn")
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)  # [1797, 64], [1797]
    pixels = np.round(levels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    rows = [
        Row(i, Image.fromarray(pixels[i]), int(labels[i]), f"digits row {i}")
        for i in range(len(pixels))
    ]
    return DataSource({"train": InMemoryRows(rows)}, tuple(str(digit) for digit in range(10)))


def sounds_source() -> DataSource:
    """Return 1800 synthetic clips of 0.3 to 0.5 s at 8 kHz, whose classes take turns.

    Each of the eight classes has 225 clips; see `synthetic_audio`.

    Raises:
        MissingExtraError: SciPy or the extra `audio` is not installed.
    """
    require_extras("data set sounds", "train", module="scipy")
    from anytime_ar.data.sources.synthetic_audio import CLASSES, SAMPLE_RATE, synthesize_clip

    rows = []
    for made in map(synthesize_clip, range(_NUM_CLIPS)):
        (wav,) = encode_audio(torch.from_numpy(made.render())[None, None], SAMPLE_RATE)
        rows.append(Row(made.index, wav, made.label, f"sounds row {made.index}"))
    return DataSource({"train": InMemoryRows(rows)}, CLASSES, "audio")
