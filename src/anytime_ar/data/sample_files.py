"""Samples as the bytes of files: a picture or a sound each. Equal samples, equal bytes."""

from __future__ import annotations

import io
from typing import Any

import soundfile  # type: ignore[import-untyped]
from PIL import Image
from torch import Tensor

from anytime_ar.data.pixels import to_uint8
from anytime_ar.data.sounds import to_int16


def encode_images(images: Tensor, format: str = "png", **options: Any) -> list[bytes]:
    """Encode pictures.

    Args:
        images: float [n, C, H, W] in [-1, 1], C = 1 or 3.
        format: a format of Pillow.
        options: of that format.
    """
    pixels = to_uint8(images.cpu()).permute(0, 2, 3, 1).squeeze(-1).numpy()  # [n, H, W(, 3)]
    files = []
    for picture in pixels:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format, **options)
        files.append(file.getvalue())
    return files


def encode_audio(clips: Tensor, sample_rate: int, format: str = "wav") -> list[bytes]:
    """Encode mono sounds with 16 bits.

    Args:
        clips: float [n, 1, T] in [-1, 1].
        sample_rate: in Hz.
        format: a format of libsndfile.
    """
    files = []
    for wave in to_int16(clips[:, 0].cpu().numpy()):
        file = io.BytesIO()
        soundfile.write(file, wave, sample_rate, format=format.upper(), subtype="PCM_16")
        files.append(file.getvalue())
    return files
