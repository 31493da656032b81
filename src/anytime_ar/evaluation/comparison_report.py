"""A comparison as tables for the terminal and for Markdown, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anytime_ar.evaluation.comparison import (
    Axis,
    Comparison,
    Contender,
    Dedicated,
    Standing,
    compare,
    trace,
)
from anytime_ar.evaluation.plots import PALETTE, band, png
from anytime_ar.evaluation.report import distance
from anytime_ar.files import write_bytes, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "os^DvP"
_DEDICATED = "#000000"


def comparison_table(comparison: Comparison) -> str:
    """Tables in 80 columns for names of up to 14 characters: sample FD for the same bits; means
    over budgets, with how many times the first model's they are; dedicated models, if any."""
    first = comparison.standings[0]
    budgets = sorted({place.budget for some in comparison.standings for place in some.places})
    rows = [["sample FD for bits", *[f"{budget:.3g}" for budget in budgets]]]
    for standing in comparison.standings:
        found = {place.budget: distance(place.fd) for place in standing.places}
        rows.append([standing.name, *[found.get(budget, "-") for budget in budgets]])
    means = [["mean sample FD", "over bits", "", "over ms", "", "best", "codes"]]
    means += [[standing.name, *_means(standing, first)] for standing in comparison.standings]
    parts = [aligned(rows), aligned(means)]
    if comparison.matches:
        parts.append(aligned(_beside(comparison, "trained for one length, of bits", "its FD")))
    low, high = comparison.bits
    footer = f"Means over {low:g} to {high:g} bits"
    if comparison.ms is not None:
        footer += " and {:.2f} to {:.2f} ms at batch 1".format(*comparison.ms)
    parts.append(f"{footer}.")
    return "\n\n".join(parts)


def comparison_markdown(comparison: Comparison) -> str:
    """The same as Markdown, with standard errors."""
    first = comparison.standings[0]
    budgets = sorted({place.budget for some in comparison.standings for place in some.places})
    rows = [
        ["sample FD", *[f"{budget:.3g} bits" for budget in budgets], "mean over bits", "over ms"]
    ]
    for standing in comparison.standings:
        found = {
            place.budget: distance(place.fd)
            + ("" if place.fd_error is None else f" ± {place.fd_error:.2g}")
            for place in standing.places
        }
        over_bits, bits_ratio, over_ms, ms_ratio, *_ = _means(standing, first)
        cells = [found.get(budget, "-") for budget in budgets]
        rows.append([standing.name, *cells, f"{over_bits} {bits_ratio}", f"{over_ms} {ms_ratio}"])
    text = markdown_table(rows)
    if comparison.matches:
        text += "\n" + markdown_table(_beside(comparison, "bits", "trained for that length"))
    return text


def draw_comparison(contenders: Sequence[Contender], dedicated: Dedicated | None = None) -> bytes:
    """Sample FD against bits and against milliseconds as PNG, with 95 % bands."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, contenders, dedicated, "bits")
    left.set_ylabel("Fréchet distance of samples", fontsize=11)
    left.set_xlabel("bits of the codes drawn", fontsize=11)
    if all(point.ms is not None for some in contenders for point in some.curve.points):
        _draw(right, contenders, dedicated, "ms")
    right.set_xlabel("milliseconds for one sample", fontsize=11)
    handles, labels = left.get_legend_handles_labels()
    right.legend(handles, labels, frameon=False, fontsize=10)
    return png(figure)


def write_comparison(
    contenders: Sequence[Contender], dedicated: Dedicated | None, folder: Path
) -> Comparison:
    """Compare, and write comparison.json, comparison.md and comparison.png into `folder`."""
    comparison = compare(contenders, dedicated)
    picture = draw_comparison(contenders, dedicated)
    text = comparison_markdown(comparison).encode()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", comparison.model_dump(mode="json"))
    write_bytes(folder / "comparison.md", text)
    write_bytes(folder / "comparison.png", picture)
    return comparison


def _beside(comparison: Comparison, bits: str, dedicated: str) -> list[list[str]]:
    """The first model beside those trained for one length; `bits` and `dedicated` are heads."""
    rows = [[bits, dedicated, comparison.standings[0].name, "ratio"]]
    for match in comparison.matches:
        distances = [distance(match.dedicated), distance(match.fd)]
        rows.append([f"{match.bits:g}", *distances, f"{match.ratio:.2f}"])
    return rows


def _means(standing: Standing, first: Standing) -> list[str]:
    cells = [distance(standing.area_bits), _times(standing.area_bits, first.area_bits)]
    if standing.area_ms is None or first.area_ms is None:
        cells += ["-", ""]
    else:
        cells += [distance(standing.area_ms), _times(standing.area_ms, first.area_ms)]
    return [*cells, distance(standing.best_fd), str(standing.best_codes)]


def _times(value: float, unit: float) -> str:
    return f"({value / unit:.2f}x)" if unit else ""


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns, the first one a head; all but the first column to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; the first is its head, and the first column is text."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [rows[0], rule, *rows[1:]])


def _draw(
    axes: Axes, contenders: Sequence[Contender], dedicated: Dedicated | None, axis: Axis
) -> None:
    for number, (name, curve) in enumerate(contenders):
        colour, marker = PALETTE[number % 6], _MARKERS[number % 6]
        at, heights = zip(*trace(curve, axis), strict=True)
        size = 4.5 if len(at) <= 40 else 2.5
        axes.plot(at, heights, f"{marker}-", color=colour, label=name, ms=size, lw=1.8)
        errors = [None if p.samples is None else p.samples.fd_error for p in curve.points]
        known = zip(at, heights, errors, strict=True)
        band(axes, [(x, y, error) for x, y, error in known if error is not None], colour)
    if dedicated is not None:
        ends = [trace(curve, axis)[-1] for curve in dedicated.curves]
        at, heights = zip(*sorted(ends), strict=True)
        axes.plot(at, heights, "*", color=_DEDICATED, label=dedicated.name, ms=11)
    axes.set_yscale("log")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
