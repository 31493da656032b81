"""Write docs/results.md, with a plot for each data set, from measured curves.

    python docs/results.py              # the whole page
    python docs/results.py mnist samples   # one table: samples, reconstructions, sets or codes

The tables of shipped models come from the curve.json of each bundle in the package. The comparison
comes from docs/results/DATA/METHOD.json, each a curve.json of `anytime evaluate`. The text around
the tables is docs/results/introduction.md; `<!-- table: NAME -->` marks where a table goes.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from importlib import resources
from pathlib import Path

from anytime_ar.bundle import Curve
from anytime_ar.bundle.curve import CurvePoint
from anytime_ar.evaluation import Candidate, FixedLengthModels, compare
from anytime_ar.evaluation.compare import comparison_markdown, plot_comparison
from anytime_ar.evaluation.report import format_distance, markdown_table
from anytime_ar.runtime.files import write_bytes

HERE = Path(__file__).parent
BUNDLES = Path(str(resources.files("anytime_ar") / "bundles"))
SHIPPED = ("mnist", "cifar10", "fsdd")
"""Names of the shipped models, in the order of the page."""
METHODS = {
    "ordered": "ordered",
    "channel": "channel-wise, unordered",
    "spatial": "spatial, unordered",
    "residual": "residual, quantizer dropout",
    "paper": "the paper's recipe",
}
"""Titles of the methods that are compared, by the names of their curves; the first one is ours."""
FIXED = "fixed-*"
"""File names of the curves of models for one length each."""
PER_LENGTH = "one model per length"
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
SHARES = (0.125, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0)
"""Shares of the code length at which reconstructions are compared."""
SHIPPED_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
"""Shares of the code length in the table of all shipped models."""
AUDIO_SHARES = (0.0625, *SHIPPED_SHARES)
"""Shares of the code length in the table of the audio model."""
COLUMNS = 16
"""Largest number of codes in the table of codebook usage."""


def shipped_curve(name: str) -> Curve:
    """Read the measured curve of a shipped model."""
    return Curve.read(BUNDLES / name / "curve.json")


def shipped() -> str:
    """Make the table of all shipped models, at shares of their code length."""
    rows = [
        [
            "model",
            "codes",
            "bits",
            "MSE",
            "FD, reconstructions",
            "FD, samples",
            "label accuracy",
            "ms",
        ]
    ]
    for name in SHIPPED:
        curve = shipped_curve(name)
        rows += [
            [
                f"`{name}`",
                f"{point.codes} of {curve.code_length}",
                f"{point.bits:,.0f}",
                f"{point.mse:.4f}",
                format_distance(point.fd_reconstruction),
                _fd_sample(point),
                _percent(point.label_accuracy_sample),
                _number(point.ms, 1),
            ]
            for point in _points_at(curve, SHIPPED_SHARES)
        ]
    return markdown_table(rows)


def floors() -> str:
    """Make the table of what real training samples reach against the test split."""
    rows = [["", "`mnist`", "`cifar10`", "`fsdd`"]]
    found = [shipped_curve(name) for name in SHIPPED]
    rows.append(["FD of training samples", *[format_distance(curve.fd_train) for curve in found]])
    sets = [curve.train_metrics for curve in found]
    rows.append(["their precision", *[_number(some and some.precision, 2) for some in sets]])
    rows.append(["their recall", *[_number(some and some.recall, 2) for some in sets]])
    rows.append(["training samples", *[f"{curve.num_train_samples:,}" for curve in found]])
    rows.append(["samples of the model", *[f"{curve.num_samples:,}" for curve in found]])
    rows.append(["test samples", *[f"{curve.num_test_samples:,}" for curve in found]])
    rows.append(
        [
            "label accuracy of the test split",
            *[_percent(curve.label_accuracy_test) for curve in found],
        ]
    )
    return markdown_table(rows)


def image_curve(name: str) -> str:
    """Make the table of a shipped image model, at every number of codes that was measured."""
    curve = shipped_curve(name)
    components = {point.codes: point.mse for point in curve.baselines.pca}
    rows = [
        [
            "codes",
            "bits",
            "MSE",
            "MSE of as many PCA coefficients",
            "FD, reconstructions",
            "FD, samples",
            "precision",
            "recall",
            "label accuracy",
            "ms",
        ]
    ]
    for point in curve.points:
        quality = point.sample_metrics
        rows.append(
            [
                str(point.codes),
                f"{point.bits:.0f}",
                f"{point.mse:.4f}",
                _number(components.get(point.codes), 4),
                format_distance(point.fd_reconstruction),
                _fd_sample(point),
                _number(quality and quality.precision, 2),
                _number(quality and quality.recall, 2),
                _percent(point.label_accuracy_sample),
                _number(point.ms, 1),
            ]
        )
    return markdown_table(rows)


def audio_curve(name: str) -> str:
    """Make the table of a shipped audio model, beside the unordered autoencoder."""
    curve = shipped_curve(name)
    data = json.loads((BUNDLES / name / "config.json").read_text(encoding="utf-8"))["data"]
    seconds = data["sample_shape"][-1] / data["sample_rate"]
    unordered = {point.codes: point for point in curve.baselines.unordered}
    rows = [
        [
            "codes",
            "kbit/s",
            "SNR, dB",
            "STFT distance",
            "mel distance, dB",
            "STOI",
            "label accuracy, reconstructions",
            "FD, samples",
            "label accuracy, samples",
            "ms",
        ]
    ]
    for point in _points_at(curve, AUDIO_SHARES):
        beside = unordered[point.codes]
        rows.append(
            [
                str(point.codes),
                f"{math.floor(point.bits / seconds / 100 + 0.5) / 10:.1f}",  # a half rounds up
                f"{point.metrics['snr']:.2f} ({beside.metrics['snr']:.2f})",
                f"{point.metrics['stft']:.3f}",
                f"{point.metrics['mel']:.2f}",
                f"{point.metrics['stoi']:.3f}",
                f"{_percent(point.label_accuracy_reconstruction)} "
                f"({_percent(beside.label_accuracy_reconstruction)})",
                format_distance(point.fd_sample),
                _percent(point.label_accuracy_sample),
                _number(point.ms, 0),
            ]
        )
    return markdown_table(rows)


def curves(data: str) -> dict[str, Curve]:
    """Read the curves of a data set that have been measured, by method."""
    folder = HERE / "results" / data
    names = [name for name in METHODS if (folder / f"{name}.json").is_file()]
    return {name: Curve.read(folder / f"{name}.json") for name in names}


def candidates(data: str) -> tuple[list[Candidate], FixedLengthModels | None]:
    """Collect what `compare` takes: methods, and models for one length if they are measured."""
    found = [Candidate(METHODS[name], curve) for name, curve in curves(data).items()]
    fixed = sorted((HERE / "results" / data).glob(f"{FIXED}.json"))
    if not fixed:
        return found, None
    return found, FixedLengthModels(PER_LENGTH, tuple(map(Curve.read, fixed)))


def samples(data: str) -> str:
    """Make the table of sample FD for the same bits and milliseconds."""
    return comparison_markdown(compare(*candidates(data)))


def reconstructions(data: str) -> str:
    """Make the table of squared error at shares of the codes, PCA's in the last row."""
    found = curves(data)
    rows = [["squared error at", *[f"{share:.3g} L" for share in SHARES]]]
    for name, curve in found.items():
        errors = {point.codes: point.mse for point in curve.points}
        rows.append([METHODS[name], *_at(errors, curve.code_length, 4)])
    ours = found["ordered"]
    components = {point.codes: point.mse for point in ours.baselines.pca}
    rows.append(["PCA, real coefficients", *_at(components, ours.code_length, 4)])
    return markdown_table(rows)


def sets(data: str) -> str:
    """Make the table of what else tells samples of all codes from the test split."""
    rows = [
        [
            "samples of all codes",
            "FD",
            "KD",
            "precision",
            "recall",
            "nearest-neighbour distance ratio",
            "label accuracy",
            "nats per code, training",
            "nats per code, test",
        ]
    ]
    for name, curve in curves(data).items():
        last = curve.points[-1]
        assert last.sample_metrics is not None
        quality = last.sample_metrics
        rows.append(
            [
                METHODS[name],
                f"{format_distance(last.fd_sample)} ± {format_distance(quality.fd_stderr)}",
                f"{quality.kd:.2g}",
                f"{quality.precision:.3f} ± {quality.precision_stderr:.3f}",
                f"{quality.recall:.3f} ± {quality.recall_stderr:.3f}",
                _number(last.nn_distance_ratio, 2),
                _number(last.label_accuracy_sample, 3),
                _number(curve.nll_train, 3),
                _number(curve.nll_test, 3),
            ]
        )
    ours = curves(data)["ordered"]
    if (floor := ours.train_metrics) is not None:
        rows.append(
            [
                f"{ours.num_train_samples:,} training samples",
                f"{format_distance(ours.fd_train)} ± {format_distance(floor.fd_stderr)}",
                f"{floor.kd:.2g}",
                f"{floor.precision:.3f} ± {floor.precision_stderr:.3f}",
                f"{floor.recall:.3f} ± {floor.recall_stderr:.3f}",
                *["-"] * 4,
            ]
        )
    return markdown_table(rows)


def codes(data: str) -> str:
    """Make the table of codebook usage of our model; of long codes, some from first to last."""
    all_codes = curves(data)["ordered"].codebook_usage
    count = min(len(all_codes), COLUMNS)
    uses = [all_codes[round(i * (len(all_codes) - 1) / (count - 1))] for i in range(count)]
    rows = [["code", *[str(use.position) for use in uses]]]
    rows.append(["entropy, bits", *[f"{use.entropy:.2f}" for use in uses]])
    rows.append(["codebook entries used", *[f"{use.used_fraction:.0%}" for use in uses]])
    rows.append(["loss of the prior, nats", *[_number(use.nll, 2) for use in uses]])
    return markdown_table(rows)


TABLES = {
    "samples": (samples, "Sample FD for the same bits"),
    "reconstructions": (reconstructions, "Reconstruction of the test split"),
    "sets": (sets, "Distribution metrics of samples of all codes"),
    "codes": (codes, "Codebook usage"),
}


def introduction() -> str:
    """Fill the tables of shipped models into the text of introduction.md."""
    tables = {
        "shipped": shipped,
        "floors": floors,
        "mnist": lambda: image_curve("mnist"),
        "cifar10": lambda: image_curve("cifar10"),
        "fsdd": lambda: audio_curve("fsdd"),
    }
    text = (HERE / "results" / "introduction.md").read_text(encoding="utf-8")
    text = text.replace("](../", "](")  # the page is a folder above it
    return re.sub(r"<!-- table: (\w+) -->\n", lambda found: tables[found[1]](), text)


def page() -> str:
    """Make all of docs/results.md."""
    parts = [introduction().rstrip() + "\n\n"]
    for data, title in TITLES.items():
        if not curves(data):
            continue
        ours = curves(data)["ordered"]
        parts.append(f"## {title}: ordered codes beside other methods\n\n")
        parts.append(
            f"{ours.num_samples:,} samples against {ours.num_test_samples:,} test samples. The FD "
            f"of {ours.num_train_samples:,} training samples against them is "
            f"{format_distance(ours.fd_train)}.\n\n"
            f"![Sample FD of all methods against bits and milliseconds](results/{data}.png)\n\n"
        )
        measured = curves(data)
        missing = [title for name, title in METHODS.items() if name not in measured]
        missing += [] if candidates(data)[1] else [PER_LENGTH]
        if missing:
            parts.append(f"Not measured yet: {'; '.join(missing)}.\n\n")
        for name, (make, what) in TABLES.items():
            parts.append(f"### {what} ({title})\n\n{make(data)}\n")
            parts.append(f"`python docs/results.py {data} {name}`\n\n")
    return "".join(parts).rstrip() + "\n"


def _points_at(curve: Curve, shares: tuple[float, ...]) -> list[CurvePoint]:
    points = {point.codes: point for point in curve.points}
    return [points[round(share * curve.code_length)] for share in shares]


def _fd_sample(point: CurvePoint) -> str:
    error = point.sample_metrics.fd_stderr if point.sample_metrics is not None else None
    return format_distance(point.fd_sample) + ("" if error is None else f" ± {error:.2g}")


def _at(values: dict[int, float], length: int, digits: int) -> list[str]:
    return [_number(values.get(max(1, round(share * length))), digits) for share in SHARES]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", choices=TITLES)
    parser.add_argument("table", nargs="?", choices=TABLES)
    arguments = parser.parse_args()
    if arguments.data:
        for name in [arguments.table] if arguments.table else TABLES:
            sys.stdout.write(TABLES[name][0](arguments.data))
        return
    write_bytes(HERE / "results.md", page().encode())
    for data in TITLES:
        if curves(data):
            write_bytes(HERE / "results" / f"{data}.png", plot_comparison(*candidates(data)))


if __name__ == "__main__":
    main()
