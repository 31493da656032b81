"""Show samples side by side: grids, contact sheets, and images or audio players in notebooks.

Audio becomes spectrograms, or players; series become line plots.
"""

from __future__ import annotations

import base64
import io
import math
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anytime_ar.errors import InputError, require_extras
from anytime_ar.media.spectra import AMPLITUDE_FLOOR, log_mel_spectrogram
from anytime_ar.media.windows import SampleCodec

GAP = 2
"""Pixels between the images of a grid or sheet, white."""
MAX_COLUMNS = 12
"""Maximum number of columns by default."""
MIN_TILE = 48
"""Minimum side of a tile in pixels; smaller samples are enlarged by an integer factor."""
SPECTROGRAM = (96, 160)
"""Height and width of a spectrogram, in pixels."""
LINE_PLOT = (96, 160)
"""Height and width of a line plot, in pixels."""
_LINE_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
"""Colours of channels in line plots, which colour-blind people tell apart (Okabe and Ito 2008)."""
_MAX_IMAGES, _MAX_CLIPS = 64, 8
"""Most samples that a notebook shows."""
WINDOW_S = 0.032
"""Window of the spectrum in seconds: long enough to resolve the harmonics of a voice, short enough
to resolve its phonemes."""
MIN_DB, MAX_DB = 20 * math.log10(AMPLITUDE_FLOOR), -10.0
"""Levels of the darkest and the brightest colour, in dB of a full-scale sine. A voice is not louder
than that in any band."""


def as_images(samples: Tensor, sample_rate: int | None = None) -> Tensor:
    """Return an image of each sample: images, spectrograms of audio, line plots of series.

    Transparent images are composited over white. A spectrogram has low frequencies at the bottom,
    on the mel scale up to half the sample rate. It grows brighter with the level, from `MIN_DB` to
    `MAX_DB`, the same for all samples; that of several channels is their mean. A line plot has a
    colour for each channel, and -1 and 1 at its lower and upper edge.

    Args:
        samples: float32 [n, C, H, W] with C of 1, 3 or 4, or [n, C, T], in [-1, 1].
        sample_rate: sampling rate of audio in Hz; None for images and series.

    Returns:
        float32 [n, C, H, W] in [-1, 1] on the CPU, C of 1 or 3; for audio and series
        [n, 3, 96, 160].

    Raises:
        InputError: there are no samples, or they have another shape.
        MissingExtraError: the samples are audio, and the extra `audio` is not installed.
    """
    shape = tuple(samples.shape[1:])
    if not (len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3, 4))):
        raise InputError(
            f"a sheet needs images (1, 3 or 4, H, W), or sounds or series (C, T), got {shape}"
        )
    if not len(samples):
        raise InputError("a sheet of no samples cannot be made; pass at least one")
    samples = samples.detach().float().cpu().clamp(-1, 1)
    if len(shape) == 3:
        return _without_alpha(samples)
    return _line_plots(samples) if sample_rate is None else _spectrograms(samples, sample_rate)


def _without_alpha(images: Tensor) -> Tensor:
    """Composite RGBA images over white: [n, 4, H, W] -> [n, 3, H, W]; others are unchanged."""
    if images.shape[1] != 4:
        return images
    return torch.lerp(torch.ones_like(images[:, :3]), images[:, :3], (images[:, 3:] + 1) / 2)


def _spectrograms(sounds: Tensor, sample_rate: int) -> Tensor:
    require_extras("a spectrogram", "audio", module="matplotlib")
    import matplotlib

    height, width = SPECTROGRAM
    levels = log_mel_spectrogram(
        sounds, sample_rate, bands=height, window_s=WINDOW_S
    )  # [n * C, 96, frames], dB
    levels = levels.unflatten(0, sounds.shape[:2]).mean(1)
    shares = ((levels - MIN_DB) / (MAX_DB - MIN_DB)).clamp(0, 1).flip(1)
    shares = F.interpolate(shares[:, None], (height, width), mode="bilinear", antialias=True)
    colours = matplotlib.colormaps["magma"](shares[:, 0].numpy())[..., :3]  # [n, 96, 160, 3]
    return torch.from_numpy(colours.astype(np.float32)).permute(0, 3, 1, 2) * 2 - 1


def _line_plots(series: Tensor) -> Tensor:
    from PIL import Image, ImageDraw

    height, width = LINE_PLOT
    plots = []
    for sample in series:
        image = Image.new("RGB", (width, height), "#f2f2f2")
        draw = ImageDraw.Draw(image)
        draw.line([(0, height / 2), (width, height / 2)], fill="#cccccc")
        x = torch.linspace(0, width - 1, sample.shape[1]).tolist()
        for channel, values in enumerate(sample):
            y = ((1 - values) / 2 * (height - 1)).round().tolist()
            draw.line([*zip(x, y, strict=True)], fill=_LINE_COLOURS[channel % len(_LINE_COLOURS)])
        plots.append(np.asarray(image, dtype=np.float32))
    return torch.from_numpy(np.stack(plots)).permute(0, 3, 1, 2) / 127.5 - 1


def image_grid(images: Tensor, columns: int) -> Tensor:
    """Arrange images in a grid, row by row.

    Args:
        images: float [N, C, H, W] in [-1, 1]; cells without an image are white.
        columns: number of images in a row.

    Returns:
        float [C, H', W'] with `H' = rows * (H + GAP) - GAP`, and `W'` likewise. A single
        image is returned without a border, so that it can be encoded again.

    Raises:
        InputError: there are no images, they have another shape, or `columns` is below 1.
    """
    if images.ndim != 4 or len(images) == 0:
        raise InputError(f"images have shape {tuple(images.shape)}; pass [N, C, H, W] with N >= 1")
    if columns < 1:
        raise InputError(f"columns is {columns}; pass at least 1")
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    step_down, step_right = height + GAP, width + GAP
    grid = images.new_ones(channels, rows * step_down - GAP, columns * step_right - GAP)
    for i, image in enumerate(images):
        top, left = i // columns * step_down, i % columns * step_right
        grid[:, top : top + height, left : left + width] = image
    return grid


def _enlarge(images: Tensor) -> Tensor:
    """Enlarge images [n, C, H, W] by an integer factor to at least `MIN_TILE` pixels a side."""
    scale = max(1, math.ceil(MIN_TILE / min(images.shape[2:])))
    return images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)


@torch.no_grad()
def contact_sheet(
    codec: SampleCodec,
    codes: Tensor,
    budgets: Sequence[int],
    *,
    sample_rate: int | None = None,
    differences: bool = False,
) -> Tensor:
    """Return a sheet with a row per sample and a column per number of codes; see `as_images`.

    Args:
        codec: model that decodes the codes.
        codes: int64 [n, k], new or encoded.
        budgets: numbers of codes to decode, each in 1..k, from left to right.
        sample_rate: sampling rate of audio in Hz; None for images and series.
        differences: show, from the second column on, half the difference to the column before.
            Images are grey where nothing has changed.

    Returns:
        float32 [C, H', W'] in [-1, 1]: tiles of at least 48 pixels, each followed by a white gap
        of 2 pixels on its right and below.

    Raises:
        InputError: there are no images of such samples, or a number of codes is out of range.
    """
    if not len(codes) or not budgets or not all(1 <= k <= codes.shape[1] for k in budgets):
        raise InputError(
            f"a contact sheet needs samples, and budgets in 1..{codes.shape[1]}, the codes that "
            f"each has; got {len(codes)} samples and budgets {list(budgets)}"
        )
    columns = []
    before: Tensor | None = None
    for k in budgets:
        samples = codec.decode(codes[:, :k])
        if samples.ndim == 4:
            samples = _without_alpha(samples)
        shown = samples if before is None else (samples - before) / 2
        before = samples if differences else None
        tiles = as_images(shown, sample_rate)  # [n, C, H, W]
        tiles = F.pad(_enlarge(tiles), (0, GAP, 0, GAP), value=1.0)
        columns.append(torch.cat(list(tiles), dim=1))  # [C, n·H, W]
    return torch.cat(columns, dim=2)


def evenly_spaced_budgets(budgets: Sequence[int]) -> list[int]:
    """Return at most 12 of rising numbers of codes, evenly from the first to the last."""
    places = np.linspace(0, len(budgets) - 1, min(MAX_COLUMNS, len(budgets))).round().astype(int)
    return [budgets[place] for place in places]


def write_sheets(
    codec: SampleCodec, codes: Tensor, budgets: Sequence[int], folder: Path, sample_rate: int | None
) -> list[str]:
    """Write samples.png and changes.png into a folder.

    samples.png shows the same samples with rising numbers of codes. changes.png shows what each of
    these columns adds to the one before.

    Args:
        codec: model that decodes the codes.
        codes: int64 [n, L], new or encoded.
        budgets: rising numbers of codes, of which at most 12 are shown.
        folder: folder of the files, created if missing.
        sample_rate: sampling rate of audio in Hz; None for images and series.

    Returns:
        The names of the files.

    Raises:
        InputError: see `contact_sheet` and `write_contact_sheet`.
    """
    shown = evenly_spaced_budgets(budgets)
    for name, changes in (("samples.png", False), ("changes.png", True)):
        sheet = contact_sheet(codec, codes, shown, sample_rate=sample_rate, differences=changes)
        write_contact_sheet(sheet, shown, folder / name)
    return ["samples.png", "changes.png"]


def write_contact_sheet(sheet: Tensor, budgets: Sequence[int], path: Path) -> None:
    """Write the result of `contact_sheet`, with the number of codes above each column.

    Args:
        sheet: float32 [C, H', W'] in [-1, 1] with C of 1 or 3.
        budgets: numbers of codes of the columns.
        path: file to write. Its suffix gives the format; its folder is created if missing.

    Raises:
        InputError: the suffix is unknown, or the path cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    from anytime_ar.media.image import write_image

    pixels = ((sheet + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)  # [H', W', C]
    tiles = Image.fromarray(pixels.squeeze(2).numpy() if len(sheet) == 1 else pixels.numpy())
    header, font = 18, ImageFont.load_default(size=12)
    image = Image.new("RGB", (tiles.width + GAP, tiles.height + header), "white")
    image.paste(tiles, (GAP, header))
    draw = ImageDraw.Draw(image)
    pitch = tiles.width / len(budgets)
    for column, k in enumerate(budgets):
        centre = GAP + (column + 0.5) * pitch - GAP / 2
        draw.text((centre, header / 2), f"k={k}", fill="black", font=font, anchor="mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    values = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)
    write_image(path, values / 127.5 - 1)


def image_grid_png(samples: Tensor, sample_rate: int | None = None) -> bytes | None:
    """Return the first samples side by side as PNG; None for audio, which has players.

    Args:
        samples: float32 [n, C, H, W] in [-1, 1], or series [n, C, T].
        sample_rate: sample rate of audio in Hz; None for images and series.
    """
    is_image = samples.ndim == 4 and samples.shape[1] in (1, 3, 4)
    if not len(samples) or not (is_image or (samples.ndim == 3 and sample_rate is None)):
        return None
    from anytime_ar.media.image import encode_images

    tiles = _enlarge(as_images(samples[:_MAX_IMAGES]))
    return encode_images(image_grid(tiles, math.ceil(math.sqrt(len(tiles))))[None])[0]


def audio_players_html(samples: Tensor, sample_rate: int | None) -> str | None:
    """Return the first samples as HTML with a player for each; None if they are not audio.

    Args:
        samples: float32 [n, C, T] in [-1, 1].
        sample_rate: sample rate in Hz.
    """
    if samples.ndim != 3 or sample_rate is None:
        return None
    waves = samples[:_MAX_CLIPS].detach().cpu().clamp(-1, 1).mul(32767).round().short()
    return "".join(
        f'<audio controls src="data:audio/wav;base64,{_wav_base64(clip, sample_rate)}"></audio>'
        for clip in waves
    )


def _wav_base64(clip: Tensor, sample_rate: int) -> str:
    """Encode a clip int16 [C, T] as a WAV file in base64."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(len(clip))
        out.setsampwidth(2)
        out.setframerate(sample_rate)
        out.writeframes(clip.T.numpy().astype("<i2").tobytes())
    return base64.b64encode(file.getvalue()).decode()
