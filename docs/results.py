"""Writes docs/results.md, with a picture for each data set, from the curves in docs/results.

    python docs/results.py              # all of it
    python docs/results.py mnist samples   # one table: samples, reconstructions, sets or codes

docs/results/DATA/METHOD.json is a curve.json of `anytime evaluate`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anytime_ar.bundle.curve import Curve
from anytime_ar.evaluation import Contender, Dedicated, compare
from anytime_ar.evaluation.compare import comparison_markdown, draw_comparison
from anytime_ar.evaluation.report import distance, markdown_table
from anytime_ar.runtime.files import write_bytes

HERE = Path(__file__).parent
METHODS = {
    "ordered": "ordered",
    "channel": "channel-wise, unordered",
    "spatial": "spatial, unordered",
    "residual": "residual, quantizer dropout",
    "paper": "the paper's recipe",
}
"""Names of the curves that are compared, and what they are called; the first one is ours."""
FIXED = "fixed-*"
"""Curves of models for one length each."""
PER_LENGTH = "one model per length"
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
SHARES = (0.125, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0)
"""Of all codes: where reconstructions are looked at."""
COLUMNS = 16
"""Of the table of codes, at most."""


def curves(data: str) -> dict[str, Curve]:
    """Those of a data set that have been measured, by method."""
    folder = HERE / "results" / data
    names = [name for name in METHODS if (folder / f"{name}.json").is_file()]
    return {name: Curve.read(folder / f"{name}.json") for name in names}


def contenders(data: str) -> tuple[list[Contender], Dedicated | None]:
    """What `compare` compares."""
    found = [Contender(METHODS[name], curve) for name, curve in curves(data).items()]
    fixed = sorted((HERE / "results" / data).glob(f"{FIXED}.json"))
    if not fixed:
        return found, None
    return found, Dedicated(PER_LENGTH, tuple(map(Curve.read, fixed)))


def samples(data: str) -> str:
    """Sample FD for the same bits and milliseconds."""
    return comparison_markdown(compare(*contenders(data)))


def reconstructions(data: str) -> str:
    """Squared error at shares of the codes, and PCA's beside it."""
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
    """What else tells samples of all codes from the test split."""
    rows = [
        [
            "samples of all codes",
            "FD",
            "KD",
            "precision",
            "recall",
            "near",
            "label read",
            "nats, training",
            "nats, test",
        ]
    ]
    for name, curve in curves(data).items():
        last = curve.points[-1]
        assert last.samples is not None
        quality = last.samples
        rows.append(
            [
                METHODS[name],
                f"{distance(last.fd_sample)} ± {distance(quality.fd_error)}",
                f"{quality.kd:.2g}",
                f"{quality.precision:.3f} ± {quality.precision_error:.3f}",
                f"{quality.recall:.3f} ± {quality.recall_error:.3f}",
                _number(last.nearness, 2),
                _number(last.agreement, 3),
                _number(curve.nats_train, 3),
                _number(curve.nats_test, 3),
            ]
        )
    ours = curves(data)["ordered"]
    if (floor := ours.floor_quality) is not None:
        rows.append(
            [
                f"{ours.floor_samples:,} training samples",
                f"{distance(ours.floor)} ± {distance(floor.fd_error)}",
                f"{floor.kd:.2g}",
                f"{floor.precision:.3f} ± {floor.precision_error:.3f}",
                f"{floor.recall:.3f} ± {floor.recall_error:.3f}",
                *["-"] * 4,
            ]
        )
    return markdown_table(rows)


def codes(data: str) -> str:
    """How our model uses its codes; of long ones, some from the first to the last."""
    all_codes = curves(data)["ordered"].code_use
    count = min(len(all_codes), COLUMNS)
    uses = [all_codes[round(i * (len(all_codes) - 1) / (count - 1))] for i in range(count)]
    rows = [["code", *[str(use.position) for use in uses]]]
    rows.append(["entropy, bits", *[f"{use.entropy:.2f}" for use in uses]])
    rows.append(["entries that occur", *[f"{use.used:.0%}" for use in uses]])
    rows.append(["cost to the prior, nats", *[_number(use.nats, 2) for use in uses]])
    return markdown_table(rows)


TABLES = {
    "samples": (samples, "Sample FD for the same bits"),
    "reconstructions": (reconstructions, "Reconstruction of the test split"),
    "sets": (sets, "Samples of all codes as sets"),
    "codes": (codes, "What each code tells"),
}


def page() -> str:
    """All of docs/results.md."""
    parts = [(HERE / "results" / "introduction.md").read_text(encoding="utf-8")]
    for data, title in TITLES.items():
        if not curves(data):
            continue
        ours = curves(data)["ordered"]
        parts.append(f"## {title}\n\n")
        parts.append(
            f"{ours.samples:,} samples against {ours.test_samples:,} test samples; FD of "
            f"{ours.floor_samples:,} training samples against them: {distance(ours.floor)}.\n\n"
            f"![Sample FD of all methods against bits and milliseconds](results/{data}.png)\n\n"
        )
        measured = curves(data)
        missing = [title for name, title in METHODS.items() if name not in measured]
        missing += [] if contenders(data)[1] else [PER_LENGTH]
        if missing:
            parts.append(f"Not measured yet: {'; '.join(missing)}.\n\n")
        for name, (make, what) in TABLES.items():
            parts.append(f"### {what} ({title})\n\n{make(data)}\n")
            parts.append(f"`python docs/results.py {data} {name}`\n\n")
    return "".join(parts).rstrip() + "\n"


def _at(values: dict[int, float], length: int, digits: int) -> list[str]:
    return [_number(values.get(max(1, round(share * length))), digits) for share in SHARES]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


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
            write_bytes(HERE / "results" / f"{data}.png", draw_comparison(*contenders(data)))


if __name__ == "__main__":
    main()
