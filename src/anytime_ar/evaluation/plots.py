"""The pictures of an evaluation: the curve, and samples sharpening with the number of codes."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anytime_ar.curve import Curve
from anytime_ar.errors import InputError
from anytime_ar.evaluation.protocols import Codec
from anytime_ar.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart with every common colour blindness.
_BLUE, _VERMILION, _GREEN, _ORANGE, _GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#555555"

GAP = 2
"""Pixels between the tiles of a contact sheet."""
SMALLEST_TILE = 48
"""Smaller samples are enlarged to at least this many pixels."""


def draw_curve(curve: Curve) -> bytes:
    """The curve as PNG: left reconstruction error, right Fréchet distances, against codes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points, unordered = curve.points, curve.baselines.unordered
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _line(left, [(p.codes, p.mse) for p in points], "ordered", _BLUE, "o-")
    _line(left, [(p.codes, p.mse) for p in unordered], "unordered", _VERMILION, "s--")
    _line(left, [(p.codes, p.mse) for p in curve.baselines.pca], "PCA", _GREEN, "^:")
    _label(left, "Reconstruction of test images", "mean squared error on [-1, 1]")

    _line(right, [(p.codes, p.fd_sample) for p in points], "samples", _BLUE, "o-")
    _line(right, [(p.codes, p.fd_reconstruction) for p in points], "reconstructions", _ORANGE, "D-")
    _line(
        right, [(p.codes, p.fd_sample) for p in unordered], "unordered samples", _VERMILION, "s--"
    )
    if curve.floor:
        right.axhline(
            curve.floor, color=_GREY, linestyle=(0, (5, 3)), label="floor: training images"
        )
    _label(right, "Distance to test images", "Fréchet distance of classifier features")
    if not right.get_legend_handles_labels()[0]:
        right.text(0.5, 0.5, "not measured", ha="center", va="center", transform=right.transAxes)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def _line(
    axes: Axes, points: Sequence[tuple[int, float | None]], label: str, colour: str, style: str
) -> None:
    # A logarithmic axis has no place for an exact zero.
    shown = [(codes, value) for codes, value in points if value]
    if shown:
        codes, values = zip(*shown, strict=True)
        size = 4.5 if len(shown) <= 40 else 2.5
        axes.plot(codes, values, style, color=colour, label=label, markersize=size, linewidth=1.8)


def _label(axes: Axes, title: str, quantity: str) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    axes.set_title(title, fontsize=13)
    axes.set_xlabel("number of codes k", fontsize=11)
    axes.set_ylabel(quantity, fontsize=11)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Within a decade or so the powers of ten alone would leave the axis without labels.
    steps = (1.0,) if high / low > 1000 else (1.0, 2.0, 3.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=10)


@torch.no_grad()
def contact_sheet(codec: Codec, codes: Tensor, budgets: Sequence[int]) -> Tensor:
    """Samples sharpening: a row per sample, a column per number of codes.

    Args:
        codes: int64 [n, k], drawn or encoded.
        budgets: the numbers of codes to decode, each in 1..k, left to right.

    Returns:
        float32 [C, H', W'] in [-1, 1]; tiles of at least 48 pixels, each followed by a white gap of
        2 pixels on its right and below.

    Raises:
        InputError: the samples are not grey or colour images, or a number of codes is out of range.
    """
    shape = tuple(codec.sample_shape)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(f"a contact sheet needs samples of shape (1 or 3, H, W), got {shape}")
    if not len(codes) or not budgets or not all(1 <= k <= codes.shape[1] for k in budgets):
        raise InputError(
            f"a contact sheet needs samples, and budgets in 1..{codes.shape[1]}, the codes that "
            f"each has; got {len(codes)} samples and budgets {list(budgets)}"
        )
    scale = max(1, math.ceil(SMALLEST_TILE / min(shape[1:])))
    columns = []
    for k in budgets:
        tiles = codec.decode(codes[:, :k]).float().cpu().clamp(-1, 1)  # [n, C, H, W]
        tiles = tiles.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
        tiles = torch.nn.functional.pad(tiles, (0, GAP, 0, GAP), value=1.0)
        columns.append(torch.cat(list(tiles), dim=1))  # [C, n·H, W]
    return torch.cat(columns, dim=2)


def write_contact_sheet(sheet: Tensor, budgets: Sequence[int], path: Path) -> None:
    """Write the result of `contact_sheet` as PNG, with the number of codes above each column.

    Args:
        sheet: float32 [C, H', W'] in [-1, 1] with C of 1 or 3.
        budgets: the numbers of codes of its columns.
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
    content = io.BytesIO()
    picture.save(content, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content.getvalue()))
