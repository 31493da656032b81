"""The picture of an evaluation: quality against the number of codes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anytime_ar.curve import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart with every common colour blindness.
_BLUE, _VERMILION, _GREEN, _ORANGE, _GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#555555"


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
    _label(left, "Reconstruction of the test split", "mean squared error on [-1, 1]")

    _line(right, [(p.codes, p.fd_sample) for p in points], "samples", _BLUE, "o-")
    _line(right, [(p.codes, p.fd_reconstruction) for p in points], "reconstructions", _ORANGE, "D-")
    _line(
        right, [(p.codes, p.fd_sample) for p in unordered], "unordered samples", _VERMILION, "s--"
    )
    if curve.floor:
        right.axhline(
            curve.floor, color=_GREY, linestyle=(0, (5, 3)), label="floor: training split"
        )
    _label(right, "Distance to the test split", "Fréchet distance of classifier features")
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
