"""A comparison as tables for the terminal and for Markdown, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anytime_ar.evaluation.comparison import (
    Axis,
    Candidate,
    Comparison,
    FixedLengthModels,
    Ranking,
    compare,
    fd_by_cost,
)
from anytime_ar.evaluation.plots import PALETTE, plot_confidence_band, to_png
from anytime_ar.evaluation.report import align_table, format_distance, markdown_table
from anytime_ar.files import write_bytes, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "os^DvP"
_FIXED_LENGTH_COLOUR = "#000000"


def comparison_table(comparison: Comparison) -> str:
    """Tables in 80 columns for names of up to 14 characters: sample FD for the same bits; means
    over budgets, with how many times the first model's they are; dedicated models, if any."""
    first = comparison.standings[0]
    budgets = sorted({place.budget for some in comparison.standings for place in some.places})
    rows = [["sample FD for bits", *[f"{budget:.3g}" for budget in budgets]]]
    for standing in comparison.standings:
        found = {place.budget: format_distance(place.fd) for place in standing.places}
        rows.append([standing.name, *[found.get(budget, "-") for budget in budgets]])
    means = [["mean sample FD", "over bits", "", "over ms", "", "best", "codes"]]
    means += [[standing.name, *_mean_cells(standing, first)] for standing in comparison.standings]
    parts = [align_table(rows), align_table(means)]
    if comparison.matches:
        parts.append(
            align_table(_fixed_length_rows(comparison, "trained for one length, of bits", "its FD"))
        )
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
            place.budget: format_distance(place.fd)
            + ("" if place.fd_error is None else f" ± {place.fd_error:.2g}")
            for place in standing.places
        }
        over_bits, bits_ratio, over_ms, ms_ratio, *_ = _mean_cells(standing, first)
        cells = [found.get(budget, "-") for budget in budgets]
        rows.append([standing.name, *cells, f"{over_bits} {bits_ratio}", f"{over_ms} {ms_ratio}"])
    text = markdown_table(rows)
    if comparison.matches:
        text += "\n" + markdown_table(
            _fixed_length_rows(comparison, "bits", "trained for that length")
        )
    return text


def plot_comparison(
    candidates: Sequence[Candidate], fixed_length: FixedLengthModels | None = None
) -> bytes:
    """Sample FD against bits and against milliseconds as PNG, with 95 % bands."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _plot_fd_by_cost(left, candidates, fixed_length, "bits")
    left.set_ylabel("Fréchet distance of samples", fontsize=11)
    left.set_xlabel("bits of the codes drawn", fontsize=11)
    if all(point.ms is not None for some in candidates for point in some.curve.points):
        _plot_fd_by_cost(right, candidates, fixed_length, "ms")
    right.set_xlabel("milliseconds for one sample", fontsize=11)
    handles, labels = left.get_legend_handles_labels()
    right.legend(handles, labels, frameon=False, fontsize=10)
    return to_png(figure)


def write_comparison(
    candidates: Sequence[Candidate], fixed_length: FixedLengthModels | None, folder: Path
) -> Comparison:
    """Compare, and write comparison.json, comparison.md and comparison.png into `folder`."""
    comparison = compare(candidates, fixed_length)
    picture = plot_comparison(candidates, fixed_length)
    text = comparison_markdown(comparison).encode()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", comparison.model_dump(mode="json"))
    write_bytes(folder / "comparison.md", text)
    write_bytes(folder / "comparison.png", picture)
    return comparison


def _fixed_length_rows(comparison: Comparison, bits: str, fixed_length: str) -> list[list[str]]:
    """The first model beside those trained for one length; `bits` and `fixed_length` are heads."""
    rows = [[bits, fixed_length, comparison.standings[0].name, "ratio"]]
    for match in comparison.matches:
        distances = [format_distance(match.dedicated), format_distance(match.fd)]
        rows.append([f"{match.bits:g}", *distances, f"{match.fd_ratio:.2f}"])
    return rows


def _mean_cells(ranking: Ranking, first: Ranking) -> list[str]:
    cells = [format_distance(ranking.area_bits), _ratio_text(ranking.area_bits, first.area_bits)]
    if ranking.area_ms is None or first.area_ms is None:
        cells += ["-", ""]
    else:
        cells += [format_distance(ranking.area_ms), _ratio_text(ranking.area_ms, first.area_ms)]
    return [*cells, format_distance(ranking.best_fd), str(ranking.best_codes)]


def _ratio_text(value: float, reference: float) -> str:
    return f"({value / reference:.2f}x)" if reference else ""






def _plot_fd_by_cost(
    axes: Axes, candidates: Sequence[Candidate], fixed_length: FixedLengthModels | None, axis: Axis
) -> None:
    for number, (name, curve) in enumerate(candidates):
        colour, marker = PALETTE[number % 6], _MARKERS[number % 6]
        at, heights = zip(*fd_by_cost(curve, axis), strict=True)
        size = 4.5 if len(at) <= 40 else 2.5
        axes.plot(at, heights, f"{marker}-", color=colour, label=name, ms=size, lw=1.8)
        errors = [None if p.samples is None else p.samples.fd_error for p in curve.points]
        known = zip(at, heights, errors, strict=True)
        plot_confidence_band(
            axes, [(x, y, error) for x, y, error in known if error is not None], colour
        )
    if fixed_length is not None:
        ends = [fd_by_cost(curve, axis)[-1] for curve in fixed_length.curves]
        at, heights = zip(*sorted(ends), strict=True)
        axes.plot(at, heights, "*", color=_FIXED_LENGTH_COLOUR, label=fixed_length.name, ms=11)
    axes.set_yscale("log")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
