"""Plots of an evaluation: quality against the number of codes, and codebook usage."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from anytime_ar.bundle.curve import Curve, QualityPoint
from anytime_ar.errors import require_extras
from anytime_ar.evaluation.metrics.reconstruction import metrics_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONFIDENCE = 1.96
"""Half-width of a 95 % confidence interval, in standard errors."""
_COLUMNS = 3
"""Number of plots in a row, below the first two."""
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
"""Colours of Okabe and Ito, distinct for common forms of colour blindness."""
_BLUE, _VERMILION, _GREEN, _ORANGE, *_ = PALETTE
_GREY = "#555555"


def plot_curve(curve: Curve) -> bytes:
    """Return a PNG of reconstruction error, Fréchet distances and further metrics against codes.

    Args:
        curve: curve to plot; metrics that were not measured are left out.
    """
    points, unordered = curve.points, curve.baselines.unordered
    measured = metrics_in(points[:1])
    was_read = any(
        p.label_accuracy_reconstruction is not None or p.label_accuracy_sample is not None
        for p in points
    )
    rows = 1 + -(-(len(measured) + was_read) // _COLUMNS)
    figure = new_figure(11, 4.4 + 3.2 * (rows - 1))
    grid = figure.add_gridspec(
        rows, 2 * _COLUMNS, height_ratios=[4.4, *[3.2] * (rows - 1)]
    )  # two plots in the first row, `_COLUMNS` in the others
    left, right = (figure.add_subplot(grid[0, i * _COLUMNS : (i + 1) * _COLUMNS]) for i in (0, 1))
    _plot_line(left, [(p.codes, p.mse) for p in points], "ordered", _BLUE, "o-")
    _plot_line(left, [(p.codes, p.mse) for p in unordered], "unordered", _VERMILION, "s--")
    _plot_line(left, [(p.codes, p.mse) for p in curve.baselines.pca], "PCA", _GREEN, "^:")
    _label_axes(left, "Reconstruction of the test split", "mean squared error on [-1, 1]")
    _use_log_scale(left)

    _plot_line(right, [(p.codes, p.fd_sample) for p in points], "samples", _BLUE, "o-")
    _plot_line(
        right, [(p.codes, p.fd_reconstruction) for p in points], "reconstructions", _ORANGE, "D-"
    )
    _plot_line(
        right, [(p.codes, p.fd_sample) for p in unordered], "unordered samples", _VERMILION, "s--"
    )
    _plot_fd_confidence(right, points, "samples", _BLUE)
    _plot_fd_confidence(right, points, "reconstructions", _ORANGE)
    _plot_fd_confidence(right, unordered, "samples", _VERMILION)
    if curve.fd_train:
        _plot_level(right, curve.fd_train, "floor: training split")
    _label_axes(right, "Distance to the test split", "Fréchet distance of classifier features")
    _use_log_scale(right)
    if not right.get_legend_handles_labels()[0]:
        right.text(0.5, 0.5, "not measured", ha="center", va="center", transform=right.transAxes)

    cells = (
        grid[1 + i // _COLUMNS, 2 * (i % _COLUMNS) : 2 * (i % _COLUMNS) + 2]
        for i in range(len(measured) + 1)
    )
    for metric, cell in zip(measured, cells, strict=False):
        axes = figure.add_subplot(cell)
        for some, label, colour, style in (
            (points, "ordered", _BLUE, "o-"),
            (unordered, "unordered", _VERMILION, "s--"),
        ):
            _plot_line(
                axes, [(p.codes, p.metrics.get(metric.name)) for p in some], label, colour, style
            )
        _label_axes(axes, metric.title, "")
    if was_read:
        _plot_label_accuracy(figure.add_subplot(next(cells)), curve)
    return to_png(figure)


def plot_code_usage(curve: Curve) -> bytes:
    """Return a PNG of codebook usage by position: bits, and the share of entries that occur.

    Args:
        curve: curve with codebook usage.
    """
    use = curve.codebook_usage
    figure = new_figure(11, 4)
    left, right = figure.subplots(1, 2)
    _plot_line(left, [(some.position, some.entropy) for some in use], "entropy", _BLUE, "o-")
    costs = [None if some.nll is None else some.nll / math.log(2) for some in use]
    asked = [(some.position, cost) for some, cost in zip(use, costs, strict=True)]
    _plot_line(left, asked, "cost to the prior, given those before", _VERMILION, "s-")
    if isinstance(curve.vocabulary, int):
        _plot_level(left, math.log2(curve.vocabulary), "stored plainly")
    else:
        plainly = [(i, math.log2(size)) for i, size in enumerate(curve.vocabulary, 1)]
        _plot_line(left, plainly, "stored plainly", _GREY, "--")
    left.set_ylim(bottom=0)
    _label_axes(left, "Information per code", "bits")
    _plot_line(
        right,
        [(some.position, some.used_fraction) for some in use],
        "share of entries",
        _GREEN,
        "^-",
    )
    right.set_ylim(0, 1.03)
    _label_axes(right, "Codebook usage", "")
    for axes in (left, right):
        axes.set_xlabel("position of the code", fontsize=11)
    return to_png(figure)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that needs no display.

    Args:
        width: width in inches.
        height: height in inches.

    Raises:
        MissingExtraError: the extra `eval` is not installed.
    """
    require_extras("a plot", "eval", module="matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _plot_label_accuracy(axes: Axes, curve: Curve) -> None:
    """Plot the share of correctly predicted labels against the number of codes."""
    points, unordered = curve.points, curve.baselines.unordered
    _plot_line(axes, [(p.codes, p.label_accuracy_sample) for p in points], "samples", _BLUE, "o-")
    _plot_line(
        axes,
        [(p.codes, p.label_accuracy_reconstruction) for p in points],
        "reconstructions",
        _ORANGE,
        "D-",
    )
    _plot_line(
        axes,
        [(p.codes, p.label_accuracy_reconstruction) for p in unordered],
        "unordered recon.",
        _VERMILION,
        "s--",
    )
    if curve.label_accuracy_test:
        _plot_level(axes, curve.label_accuracy_test, "test split")
    _label_axes(axes, "Label accuracy of the classifier", "")
    axes.set_ylim(0, 1.03)


def _plot_line(
    axes: Axes, points: Sequence[tuple[int, float | None]], label: str, colour: str, style: str
) -> None:
    shown = [(codes, value) for codes, value in points if value is not None]
    if shown:
        codes, values = zip(*shown, strict=True)
        size = 4.5 if len(shown) <= 40 else 2.5
        axes.plot(codes, values, style, color=colour, label=label, markersize=size, linewidth=1.8)


def _plot_fd_confidence(
    axes: Axes,
    points: Sequence[QualityPoint],
    source: Literal["samples", "reconstructions"],
    colour: str,
) -> None:
    """Plot confidence bands of Fréchet distances with known standard errors."""
    band = []
    for point in points:
        quality = point.sample_metrics if source == "samples" else point.reconstruction_metrics
        distance = point.fd_sample if source == "samples" else point.fd_reconstruction
        if distance is not None and quality is not None and quality.fd_stderr is not None:
            band.append((point.codes, distance, quality.fd_stderr))
    plot_confidence_band(axes, band, colour)


def plot_confidence_band(
    axes: Axes, points: Sequence[tuple[float, float, float]], colour: str
) -> None:
    """Plot a band of 95 % of the normal distribution.

    Args:
        axes: axes to plot on, with a logarithmic y axis.
        points: (x, distance, standard error) by rising x.
        colour: colour of the band.
    """
    if points:
        positions, distances, errors = zip(*points, strict=True)
        # A logarithmic axis cannot show values that are not positive.
        pairs = list(zip(distances, errors, strict=True))
        low = [max(distance - CONFIDENCE * error, distance / 20) for distance, error in pairs]
        high = [distance + CONFIDENCE * error for distance, error in pairs]
        axes.fill_between(positions, low, high, color=colour, alpha=0.2, linewidth=0)


def _plot_level(axes: Axes, value: float, label: str) -> None:
    axes.axhline(value, color=_GREY, linestyle=(0, (5, 3)), label=label)


def _label_axes(axes: Axes, title: str, quantity: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=13)
    axes.set_xlabel("number of codes k", fontsize=11)
    axes.set_ylabel(quantity, fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=10)


def _use_log_scale(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    # A logarithmic axis cannot show an exact zero.
    axes.set_yscale("log", nonpositive="mask")
    low, high = axes.get_ylim()
    # Within a decade or two, powers of ten alone would leave the axis without labels.
    steps = (1.0,) if high / low > 1000 else (1.0, 2.0, 3.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
