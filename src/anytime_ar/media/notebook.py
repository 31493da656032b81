"""Show samples in notebooks: a grid of images, or audio players."""

from __future__ import annotations

import base64
import io
import math
import wave

from torch import Tensor

_MAX_IMAGES, _MAX_CLIPS = 64, 8
_GAP = 2
"""Pixels between the images of a grid."""
_MIN_SIDE = 48
"""Least side in pixels of a shown image; smaller ones are enlarged by an integer factor."""


def image_grid_png(samples: Tensor) -> bytes | None:
    """Return the first samples side by side as PNG; None if they are not images.

    Args:
        samples: float32 [n, C, H, W] in [-1, 1].
    """
    if samples.ndim != 4 or samples.shape[1] not in (1, 3) or not len(samples):
        return None
    from PIL import Image

    pixels = samples[:_MAX_IMAGES].detach().cpu().clamp(-1, 1).add(1).mul(127.5).round()
    tiles = pixels.byte().permute(0, 2, 3, 1).numpy()  # [n, H, W, C]
    count, height, width, channels = tiles.shape
    scale = max(1, math.ceil(_MIN_SIDE / min(height, width)))
    tiles = tiles.repeat(scale, 1).repeat(scale, 2)
    across, down = width * scale + _GAP, height * scale + _GAP
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    mode = "L" if channels == 1 else "RGB"
    sheet = Image.new(mode, (columns * across - _GAP, rows * down - _GAP), "white")
    for i, tile in enumerate(tiles):
        one = Image.fromarray(tile[..., 0] if channels == 1 else tile)
        sheet.paste(one, (i % columns * across, i // columns * down))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def audio_players_html(samples: Tensor, sample_rate: int | None) -> str | None:
    """Return the first samples as HTML with a player for each; None if they are not audio.

    Args:
        samples: float32 [n, 1, T] in [-1, 1].
        sample_rate: sample rate in Hz.
    """
    if samples.ndim != 3 or samples.shape[1] != 1 or sample_rate is None:
        return None
    waves = samples[:_MAX_CLIPS, 0].detach().cpu().clamp(-1, 1).mul(32767).round().short()
    return "".join(
        f'<audio controls src="data:audio/wav;base64,{_wav_base64(clip, sample_rate)}"></audio>'
        for clip in waves
    )


def _wav_base64(clip: Tensor, sample_rate: int) -> str:
    """Encode a clip int16 [T] as a WAV file in base64."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(sample_rate)
        out.writeframes(clip.numpy().astype("<i2").tobytes())
    return base64.b64encode(file.getvalue()).decode()
