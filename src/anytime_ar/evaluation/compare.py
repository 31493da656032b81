"""Comparison of several models at the same bits and at the same time.

The number of codes means something else in every model. Budgets are therefore bits, the cost of
storing and sending codes, or milliseconds, the cost of sampling. A model is judged by its sample
FD, averaged over all budgets: the area under its curve, divided by the width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from anytime_ar.bundle.curve import Curve, CurvePoint
from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.evaluation.plots import PALETTE, new_figure, plot_confidence_band, to_png
from anytime_ar.evaluation.report import align_table, format_distance, markdown_table
from anytime_ar.runtime.files import write_bytes, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Axis = Literal["bits", "ms"]
"""Cost on the x axis: bits of the codes, or milliseconds for one sample."""
BUDGET_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Budgets of the table, as fractions of the largest budget that all models share."""


class Candidate(NamedTuple):
    """A model's measured curve and its name."""

    name: str
    """Name of the model in tables and plots."""
    curve: Curve
    """Measured curve of the model."""


class FixedLengthModels(NamedTuple):
    """Models trained for one length each, and evaluated at that length only.

    They show the quality that a model for every length could reach at best.
    """

    name: str
    """Common name of the models in plots."""
    curves: tuple[Curve, ...]
    """Measured curves, of which the last point counts."""


class BudgetPoint(Config):
    """The sample FD of a model at one budget."""

    budget: float
    """Budget of the codes in bits."""
    codes: int
    """Largest measured number of codes that fits into the budget."""
    fd: float
    """Sample FD at this number of codes."""
    fd_error: float | None
    """Standard error of the sample FD; None if not measured."""


class Ranking(Config):
    """The summary of one model in a comparison."""

    name: str
    """Name of the model in tables and plots."""
    mean_fd_over_bits: float
    """Sample FD averaged over the common interval of bits."""
    mean_fd_over_ms: float | None
    """Sample FD averaged over the common interval of milliseconds; None where `Comparison.ms` is
    None."""
    best_fd: float
    """Lowest sample FD of the curve."""
    best_codes: int
    """Fewest codes with the lowest sample FD."""
    points: tuple[BudgetPoint, ...]
    """Sample FD at the budgets of `BUDGET_FRACTIONS` into which a code fits."""


class FixedLengthMatch(Config):
    """The first model and a fixed-length model at the same bits."""

    bits: float
    """Bits of the fixed-length model at its full length."""
    fixed_length_fd: float
    """Sample FD of the fixed-length model."""
    fd: float
    """Sample FD of the first model for no more bits."""

    @property
    def fd_ratio(self) -> float:
        """Ratio of the first model's FD to the FD of the fixed-length model."""
        return self.fd / self.fixed_length_fd


class Comparison(Config):
    """The result of a comparison: the first model against the others."""

    bits: tuple[float, float]
    """Lowest and highest budget in bits that all models share; means are over this interval."""
    ms: tuple[float, float] | None
    """Lowest and highest budget in milliseconds that all models share; None if time was not
    measured or no interval is shared."""
    rankings: tuple[Ranking, ...]
    """Summaries of the models, in the given order."""
    matches: tuple[FixedLengthMatch, ...]
    """Matches with the fixed-length models by rising bits; empty without such models."""


def compare(
    candidates: Sequence[Candidate], fixed_length: FixedLengthModels | None = None
) -> Comparison:
    """Compare models by their curves.

    Args:
        candidates: models; the first one is compared with the others.
        fixed_length: models trained for one length each; None: no such models.

    Raises:
        InputError: there are fewer than two models, a name occurs twice, a curve has no sample FD,
            the curves have different numbers of samples, or the models share no budget.
    """
    _check(candidates, fixed_length)
    curves = [candidate.curve for candidate in candidates]
    bits = _common_budgets(curves, "bits")
    if bits is None:
        first, last = zip(*[(c.points[0].bits, c.points[-1].bits) for c in curves], strict=True)
        raise InputError(
            f"no budget suits all models: one begins at {max(first):g} bits, and one ends at "
            f"{min(last):g}; compare models whose codes carry more alike"
        )
    timed = all(point.ms is not None for curve in curves for point in curve.points)
    ms = _common_budgets(curves, "ms") if timed else None
    budgets = [share * bits[1] for share in BUDGET_FRACTIONS]
    rankings = []
    for name, curve in candidates:
        best = min(curve.points, key=lambda point: (_sample_fd(point), point.codes))
        found = ((budget, _largest_within(curve, budget)) for budget in budgets)
        rankings.append(
            Ranking(
                name=name,
                mean_fd_over_bits=mean_over_interval(fd_by_cost(curve, "bits"), *bits),
                mean_fd_over_ms=None
                if ms is None
                else mean_over_interval(fd_by_cost(curve, "ms"), *ms),
                best_fd=_sample_fd(best),
                best_codes=best.codes,
                points=tuple(
                    _budget_point(budget, point) for budget, point in found if point is not None
                ),
            )
        )
    return Comparison(
        bits=bits,
        ms=ms,
        rankings=tuple(rankings),
        matches=() if fixed_length is None else _fixed_length_matches(curves[0], fixed_length),
    )


def fd_by_cost(curve: Curve, axis: Axis) -> list[tuple[float, float]]:
    """Return (cost, sample FD) of the points of a curve, by rising cost.

    Where more codes took less time by the noise of the clock, the longer time counts.
    """
    found: list[tuple[float, float]] = []
    for point in curve.points:
        cost = point.bits if axis == "bits" else point.ms
        assert cost is not None
        found.append((max(cost, found[-1][0]) if found else cost, _sample_fd(point)))
    return found


def mean_over_interval(points: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """Return the mean height of a piecewise linear line between two x values.

    Args:
        points: (x, y) of the line, by rising x.
        low: start of the interval, not below the first x.
        high: end of the interval, not above the last x.
    """
    parts = []
    for (x, y), (to_x, to_y) in pairwise(points):
        begin, end = max(x, low), min(to_x, high)
        if begin < end:
            middle = ((begin + end) / 2 - x) / (to_x - x)
            parts.append((end - begin) * (y + (to_y - y) * middle))
    return math.fsum(parts) / (high - low)


def _check(candidates: Sequence[Candidate], fixed_length: FixedLengthModels | None) -> None:
    names = [candidate.name for candidate in candidates]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(
            f"a comparison needs two models of different names, got {', '.join(names) or 'none'}"
        )
    named = [(candidate.name, candidate.curve) for candidate in candidates]
    if fixed_length is not None:
        named += [
            (f"{fixed_length.name} {i}", curve) for i, curve in enumerate(fixed_length.curves, 1)
        ]
    for name, curve in named:
        if any(point.fd_sample is None for point in curve.points):
            raise InputError(
                f"the curve of {name} has no sample FD; measure it with `anytime evaluate` and "
                "features"
            )
        if (first := candidates[0].curve).num_samples != curve.num_samples:
            raise InputError(
                f"the FD of {names[0]} is of {first.num_samples} samples and that of {name} of "
                f"{curve.num_samples}, which cannot be compared; evaluate with the same "
                "--num-samples"
            )


def _common_budgets(curves: Sequence[Curve], axis: Axis) -> tuple[float, float] | None:
    """Return the interval of costs that all curves share, None if it is empty.

    It starts where every model has a code, and ends where the first curve ends.
    """
    traces = [fd_by_cost(curve, axis) for curve in curves]
    low, high = max(points[0][0] for points in traces), min(points[-1][0] for points in traces)
    return (low, high) if low < high else None


def _largest_within(curve: Curve, bits: float) -> CurvePoint | None:
    """Return the point with the most codes that fit into `bits`, None if none fits."""
    fitting = [point for point in curve.points if point.bits <= bits * (1 + 1e-9)]
    return fitting[-1] if fitting else None


def _budget_point(budget: float, point: CurvePoint) -> BudgetPoint:
    quality = point.sample_metrics
    error = None if quality is None else quality.fd_stderr
    return BudgetPoint(budget=budget, codes=point.codes, fd=_sample_fd(point), fd_error=error)


def _fixed_length_matches(
    curve: Curve, fixed_length: FixedLengthModels
) -> tuple[FixedLengthMatch, ...]:
    found = []
    for other in fixed_length.curves:
        full = other.points[-1]
        point = _largest_within(curve, full.bits)
        if point is not None:
            found.append(
                FixedLengthMatch(
                    bits=full.bits, fixed_length_fd=_sample_fd(full), fd=_sample_fd(point)
                )
            )
    return tuple(sorted(found, key=lambda match: match.bits))


def _sample_fd(point: CurvePoint) -> float:
    assert point.fd_sample is not None
    return point.fd_sample


_MARKERS = "os^DvP"
"""Markers of the candidates in plots, in their order."""
_FIXED_LENGTH_COLOUR = "#000000"


def comparison_table(comparison: Comparison) -> str:
    """Return tables in 80 columns, for names of up to 14 characters.

    The first table shows sample FD at the same bits. The second shows means over budgets, with
    their ratio to those of the first model. A third shows fixed-length models, if there are any.
    """
    first = comparison.rankings[0]
    budgets = sorted({point.budget for some in comparison.rankings for point in some.points})
    rows = [["sample FD for bits", *[f"{budget:.3g}" for budget in budgets]]]
    for ranking in comparison.rankings:
        found = {point.budget: format_distance(point.fd) for point in ranking.points}
        rows.append([ranking.name, *[found.get(budget, "-") for budget in budgets]])
    means = [["mean sample FD", "over bits", "", "over ms", "", "best", "codes"]]
    means += [[ranking.name, *_mean_cells(ranking, first)] for ranking in comparison.rankings]
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
    """Return the tables as Markdown, with standard errors."""
    first = comparison.rankings[0]
    budgets = sorted({point.budget for some in comparison.rankings for point in some.points})
    rows = [
        ["sample FD", *[f"{budget:.3g} bits" for budget in budgets], "mean over bits", "over ms"]
    ]
    for ranking in comparison.rankings:
        found = {
            point.budget: format_distance(point.fd)
            + ("" if point.fd_error is None else f" ± {point.fd_error:.2g}")
            for point in ranking.points
        }
        over_bits, bits_ratio, over_ms, ms_ratio, *_ = _mean_cells(ranking, first)
        cells = [found.get(budget, "-") for budget in budgets]
        rows.append([ranking.name, *cells, f"{over_bits} {bits_ratio}", f"{over_ms} {ms_ratio}"])
    text = markdown_table(rows)
    if comparison.matches:
        text += "\n" + markdown_table(
            _fixed_length_rows(comparison, "bits", "trained for that length")
        )
    return text


def plot_comparison(
    candidates: Sequence[Candidate], fixed_length: FixedLengthModels | None = None
) -> bytes:
    """Return a PNG of sample FD against bits and against milliseconds, with 95 % bands."""
    figure = new_figure(11, 4.8)
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
    plot = plot_comparison(candidates, fixed_length)
    text = comparison_markdown(comparison).encode()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", comparison.model_dump(mode="json"))
    write_bytes(folder / "comparison.md", text)
    write_bytes(folder / "comparison.png", plot)
    return comparison


def _fixed_length_rows(comparison: Comparison, bits: str, fixed_length: str) -> list[list[str]]:
    """Return rows of the first model and of those trained for one length.

    Args:
        comparison: result of the comparison.
        bits: heading of the column of bits.
        fixed_length: heading of the column of the fixed-length models.
    """
    rows = [[bits, fixed_length, comparison.rankings[0].name, "ratio"]]
    for match in comparison.matches:
        distances = [format_distance(match.fixed_length_fd), format_distance(match.fd)]
        rows.append([f"{match.bits:g}", *distances, f"{match.fd_ratio:.2f}"])
    return rows


def _mean_cells(ranking: Ranking, first: Ranking) -> list[str]:
    cells = [
        format_distance(ranking.mean_fd_over_bits),
        _ratio_text(ranking.mean_fd_over_bits, first.mean_fd_over_bits),
    ]
    if ranking.mean_fd_over_ms is None or first.mean_fd_over_ms is None:
        cells += ["-", ""]
    else:
        cells += [
            format_distance(ranking.mean_fd_over_ms),
            _ratio_text(ranking.mean_fd_over_ms, first.mean_fd_over_ms),
        ]
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
        errors = [
            None if p.sample_metrics is None else p.sample_metrics.fd_stderr for p in curve.points
        ]
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
