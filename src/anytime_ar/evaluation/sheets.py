"""Sheets of samples: pictures as they are, sounds as spectrograms, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.evaluation.protocols import Codec
from anytime_ar.media.image import write_image
from anytime_ar.media.spectra import AMPLITUDE_FLOOR, log_mel_spectrogram

GAP = 2
"""Pixels between the tiles of a contact sheet."""
MAX_COLUMNS = 12
"""Numbers of codes in a row, at most, where nobody chooses."""
MIN_TILE = 48
"""Smaller samples are enlarged to at least this many pixels."""
SPECTROGRAM = (96, 160)
"""Height and width of the picture of a sound, in pixels."""
WINDOW_S = 0.032
"""Of the spectrum: long enough to see the harmonics of a voice, short enough to see its sounds."""
MIN_DB, MAX_DB = 20 * math.log10(AMPLITUDE_FLOOR), -10.0
"""In dB of a full-scale sine. A voice has nothing louder in any one band."""


def as_images(samples: Tensor, sample_rate: int | None = None) -> Tensor:
    """A picture of each sample: images as they are, spectrograms of sounds.

    A spectrogram has low frequencies at the bottom, on the mel scale up to half the rate, and grows
    brighter with the level, from `MIN_DB` to `MAX_DB`, the same for all.

    Args:
        samples: float32 [n, C, H, W] with C of 1 or 3, or [n, 1, T], in [-1, 1].
        sample_rate: of sounds, in Hz.

    Returns:
        float32 [n, C, H, W] in [-1, 1] on the CPU; of sounds [n, 3, 96, 160].

    Raises:
        InputError: samples of another shape, or sounds without a rate.
    """
    shape = tuple(samples.shape[1:])
    channels, make = _AS_IMAGES_BY_NDIM.get(len(shape), ((), _images))
    if not shape or shape[0] not in channels:
        raise InputError(
            f"a sheet needs samples of shape (1 or 3, H, W), or sounds (1, T), got {shape}"
        )
    return make(samples.detach().float().cpu().clamp(-1, 1), sample_rate)


def _images(samples: Tensor, _: int | None) -> Tensor:
    return samples


def _spectrograms(sounds: Tensor, sample_rate: int | None) -> Tensor:
    import matplotlib

    if sample_rate is None:
        raise InputError("a sheet of sounds needs their rate; pass sample_rate in Hz")
    height, width = SPECTROGRAM
    levels = log_mel_spectrogram(
        sounds, sample_rate, bands=height, window_s=WINDOW_S
    )  # [n, 96, frames], dB
    shares = ((levels - MIN_DB) / (MAX_DB - MIN_DB)).clamp(0, 1).flip(1)
    shares = F.interpolate(shares[:, None], (height, width), mode="bilinear", antialias=True)
    colours = matplotlib.colormaps["magma"](shares[:, 0].numpy())[..., :3]  # [n, 96, 160, 3]
    return torch.from_numpy(colours.astype(np.float32)).permute(0, 3, 1, 2) * 2 - 1


_AS_IMAGES_BY_NDIM: dict[int, tuple[tuple[int, ...], Callable[[Tensor, int | None], Tensor]]] = {
    3: ((1, 3), _images),
    2: ((1,), _spectrograms),
}
"""Channels that a sample may have, and what makes a picture of it, by its number of dimensions."""


@torch.no_grad()
def contact_sheet(
    codec: Codec,
    codes: Tensor,
    budgets: Sequence[int],
    *,
    sample_rate: int | None = None,
    differences: bool = False,
) -> Tensor:
    """Samples sharpening: a row per sample, a column per number of codes; see `as_images`.

    Args:
        codes: int64 [n, k], drawn or encoded.
        budgets: the numbers of codes to decode, each in 1..k, left to right.
        sample_rate: of sounds, in Hz.
        differences: show, from the second column on, what the codes after those of the column before
            have added: half the difference, of images as grey where nothing has changed.

    Returns:
        float32 [C, H', W'] in [-1, 1]; tiles of at least 48 pixels, each followed by a white gap of
        2 pixels on its right and below.

    Raises:
        InputError: there is no picture of such samples, or a number of codes is out of range.
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
        shown = samples if before is None else (samples - before) / 2
        before = samples if differences else None
        tiles = as_images(shown, sample_rate)  # [n, C, H, W]
        scale = max(1, math.ceil(MIN_TILE / min(tiles.shape[2:])))
        tiles = tiles.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
        tiles = F.pad(tiles, (0, GAP, 0, GAP), value=1.0)
        columns.append(torch.cat(list(tiles), dim=1))  # [C, n·H, W]
    return torch.cat(columns, dim=2)


def evenly_spaced_budgets(budgets: Sequence[int]) -> list[int]:
    """At most 12 of rising numbers of codes, evenly from the first to the last."""
    places = np.linspace(0, len(budgets) - 1, min(MAX_COLUMNS, len(budgets))).round().astype(int)
    return [budgets[place] for place in places]


def write_sheets(
    codec: Codec, codes: Tensor, budgets: Sequence[int], folder: Path, sample_rate: int | None
) -> list[str]:
    """Write samples.png, the same samples from rising numbers of codes, and changes.png, what each
    of these steps adds to them, into `folder`; returns their names.

    Args:
        codes: int64 [n, L].
        budgets: rising numbers of codes, of which at most 12 are shown.
        sample_rate: of sounds, in Hz.
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
        budgets: the numbers of codes of its columns.
        path: the format follows its suffix; its folder is created.

    Raises:
        InputError: unknown suffix, or the path cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    pixels = ((sheet + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)  # [H', W', C]
    tiles = Image.fromarray(pixels.squeeze(2).numpy() if len(sheet) == 1 else pixels.numpy())
    header, font = 18, ImageFont.load_default(size=12)
    picture = Image.new("RGB", (tiles.width + GAP, tiles.height + header), "white")
    picture.paste(tiles, (GAP, header))
    draw = ImageDraw.Draw(picture)
    pitch = tiles.width / len(budgets)
    for column, k in enumerate(budgets):
        centre = GAP + (column + 0.5) * pitch - GAP / 2
        draw.text((centre, header / 2), f"k={k}", fill="black", font=font, anchor="mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    values = torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1)
    write_image(path, values / 127.5 - 1)
