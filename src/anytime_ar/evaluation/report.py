"""A curve as tables for the terminal, and as curve.json with plots in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anytime_ar.bundle.curve import Curve
from anytime_ar.evaluation.metrics.reconstruction import metrics_in
from anytime_ar.evaluation.plots import plot_code_usage, plot_curve
from anytime_ar.runtime.files import write_bytes

_MISSING = "-"
_BASELINE_METRIC = "snr"
"""Name of the metric that is also printed for the unordered baseline."""


def curve_table(curve: Curve) -> str:
    """Return the curve as tables of at most 80 columns.

    MSE is on the [-1, 1] scale, and PSNR relates to a peak of 2. `ms` is the median time of one
    sample at batch 1. A second table shows distribution metrics of reconstructions and samples. A
    third shows further metrics of reconstructions, and label accuracies. Columns without
    measurements are left out.
    """
    unordered = {point.codes: point for point in curve.baselines.unordered}
    pca = {point.codes: point.mse for point in curve.baselines.pca}
    points = curve.points
    columns: list[_Column] = [
        ("", "codes", [str(point.codes) for point in points]),
        ("", "bits", [f"{point.bits:.0f}" for point in points]),
        ("MSE", "ordered", [_format_mse(point.mse) for point in points]),
    ]
    if unordered:
        errors = [unordered[p.codes].mse if p.codes in unordered else None for p in points]
        columns.append(("MSE", "unord.", [_format_mse(error) for error in errors]))
    if pca:
        columns.append(("MSE", "PCA", [_format_mse(pca.get(point.codes)) for point in points]))
    columns.append(("PSNR", "dB", [_format_fixed(point.psnr, 1) for point in points]))
    if any(point.fd_reconstruction is not None for point in points):
        distances = [format_distance(point.fd_reconstruction) for point in points]
        columns.append(("FD", "recon.", distances))
        columns.append(("FD", "sample", [format_distance(point.fd_sample) for point in points]))
    if any(point.fd_sample is not None for point in unordered.values()):
        lost = [unordered[p.codes].fd_sample if p.codes in unordered else None for p in points]
        columns.append(("FD", "unord.", [format_distance(some) for some in lost]))
    columns.append(("ms at", "batch 1", [_format_fixed(point.ms, 1) for point in points]))

    parts = ["\n".join(_align_columns(columns))]
    parts += [
        "\n".join(_align_columns(some))
        for some in (_distribution_columns(curve), _metric_columns(curve))
        if some
    ]
    return "\n\n".join(parts) + "\n" + "\n".join(_footer(curve))


_Column = tuple[str, str, Sequence[str]]
"""Two lines of a heading, and the cells of the column."""


def _align_columns(columns: Sequence[_Column]) -> list[str]:
    widths = [max(map(len, [top, name, *cells])) for top, name, cells in columns]
    rows = [[top for top, _, _ in columns], [name for _, name, _ in columns]]
    rows += [list(row) for row in zip(*(cells for _, _, cells in columns), strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(2, "  ".join("-" * width for width in widths))
    return lines


def _distribution_columns(curve: Curve) -> list[_Column]:
    """Return columns of the distribution metrics; empty if not measured."""
    points = curve.points
    columns: list[_Column] = []
    for top, sets in (
        ("recon.", [point.reconstruction_metrics for point in points]),
        ("sample", [point.sample_metrics for point in points]),
    ):
        if any(sets):
            errors = [None if some is None else some.fd_stderr for some in sets]
            columns.append((top, "FD +-", [format_distance(error) for error in errors]))
            kernels = [None if some is None else some.kd for some in sets]
            columns.append((top, "KD", [_format_kernel_distance(kernel) for kernel in kernels]))
            shares = [(some.precision, some.recall) if some else (None, None) for some in sets]
            columns.append((top, "prec.", [_format_fixed(precision, 3) for precision, _ in shares]))
            columns.append((top, "recall", [_format_fixed(recall, 3) for _, recall in shares]))
    if any(point.nn_distance_ratio is not None for point in points):
        columns.append(
            ("NN", "ratio", [_format_fixed(point.nn_distance_ratio, 2) for point in points])
        )
    return [("", "codes", [str(point.codes) for point in points]), *columns] if columns else []


def _metric_columns(curve: Curve) -> list[_Column]:
    """Return columns of further metrics and label accuracies; empty if not measured."""
    points = curve.points
    unordered = {point.codes: point for point in curve.baselines.unordered}
    columns: list[_Column] = []
    for metric in metrics_in(points):
        title, unit = [*metric.title.split(" "), ""][:2]
        cells = [_format_fixed(point.metrics.get(metric.name), metric.digits) for point in points]
        if any(metric.name in point.metrics for point in points):
            columns.append((title, unit, cells))
        if metric.name == _BASELINE_METRIC and any(
            _BASELINE_METRIC in p.metrics for p in unordered.values()
        ):
            lost = [
                unordered[p.codes].metrics.get(_BASELINE_METRIC) if p.codes in unordered else None
                for p in points
            ]
            columns.append(
                ("unord.", unit, [_format_fixed(value, metric.digits) for value in lost])
            )
    if any(point.label_accuracy_reconstruction is not None for point in points):
        columns.append(
            (
                "label acc.",
                "recon.",
                [_format_percent(point.label_accuracy_reconstruction) for point in points],
            )
        )
    if any(point.label_accuracy_sample is not None for point in points):
        columns.append(
            (
                "label acc.",
                "sample",
                [_format_percent(point.label_accuracy_sample) for point in points],
            )
        )
    return [("", "codes", [str(point.codes) for point in points]), *columns] if columns else []


def _footer(curve: Curve) -> list[str]:
    if curve.fd_train is None:
        return ["Fréchet distances (FD) were not measured."]
    lines = [
        f"FD of {curve.num_samples:,} drawn against {curve.num_test_samples:,} test samples; "
        f"floor ({curve.num_train_samples:,} training",
        f"samples): {format_distance(curve.fd_train)}. ",
    ]
    if curve.near_lossless_codes is not None:
        lines[-1] += f"Within 2 % of the best from {curve.near_lossless_codes} codes on."
    if (train := curve.train_metrics) is not None:
        lines.append(
            f"Those training samples: FD +- {format_distance(train.fd_stderr)}, "
            f"KD {_format_kernel_distance(train.kd)}, "
            f"precision {train.precision:.3f}, recall {train.recall:.3f}."
        )
    if curve.points[0].sample_metrics is not None:
        lines += [
            "FD +-: its standard error. KD: kernel distance. NN ratio: distance to the",
            "nearest training sample, over that of reconstructed test samples; below 1:",
            "memorised.",
        ]
    if curve.nll_train is not None and curve.nll_test is not None:
        lines.append(
            f"A code costs the prior {curve.nll_train:.3f} nats in training samples, "
            f"{curve.nll_test:.3f} in test samples."
        )
    if curve.label_accuracy_test is not None:
        lines.append(
            f"Label accuracy of the classifier on the test split itself: "
            f"{_format_percent(curve.label_accuracy_test)}."
        )
    return [line.rstrip() for line in lines]


def write_report(curve: Curve, folder: Path) -> list[str]:
    """Write curve.json and the plots curve.png and codes.png into a folder.

    Each file is written atomically; codes.png (codebook usage) only if it was measured.

    Args:
        curve: curve to write.
        folder: folder of the files, created if missing.

    Returns:
        The names of the files.

    Raises:
        InputError: a file cannot be written.
    """
    files = {"curve.json": curve.to_json().encode(), "curve.png": plot_curve(curve)}
    if curve.codebook_usage:
        files["codes.png"] = plot_code_usage(curve)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(folder / name, content)
    return list(files)


def _format_mse(value: float | None) -> str:
    if value is None:
        return _MISSING
    return f"{value:.4f}" if value >= 0.001 else f"{value:.1e}"


def format_distance(value: float | None) -> str:
    """Return a distance with three significant digits, in at most six characters."""
    if value is None:
        return _MISSING
    if value >= 100_000:
        return f"{value:.0e}"
    return f"{value:.3f}" if value < 1 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _format_kernel_distance(value: float | None) -> str:
    """Return a kernel distance, which can be negative, in at most six characters."""
    if value is None:
        return _MISSING
    return f"{value:.1e}" if abs(value) < 0.001 or value >= 1000 else f"{value:.3g}"


def _format_percent(value: float | None) -> str:
    return _MISSING if value is None else f"{100 * value:.1f} %"


def _format_fixed(value: float | None, digits: int) -> str:
    return _MISSING if value is None else f"{value:.{digits}f}"


def align_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in aligned columns, with a rule below the heading.

    Args:
        rows: cells, the first row being the heading. The first column is aligned left, the others
            right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table.

    Args:
        rows: cells, the first row being the heading. The first column is aligned left, the others
            right.
    """
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [rows[0], rule, *rows[1:]])
