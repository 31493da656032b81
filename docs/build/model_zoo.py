"""Generate docs/model-zoo.md: a table of the shipped models, from their bundles.

    python docs/build/model_zoo.py            # write the page
    python docs/build/model_zoo.py --check    # end non-zero if the page is not current
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from markdown import table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "model-zoo.md"

# Recorded when each shipped model was trained; bundles do not store it.
TRAINING_TIME = {
    "mnist": "35 minutes on one core",
    "cifar10": "87 minutes on one core",
    "fsdd": "50 minutes on two cores",
}
LEARNED_FROM = {
    "mnist": "[MNIST](https://huggingface.co/datasets/ylecun/mnist)",
    "cifar10": "[CIFAR-10](https://huggingface.co/datasets/uoft-cs/cifar10)",
    "fsdd": "[Free Spoken Digit Dataset](https://github.com/Jakobovits/free-spoken-digit-dataset)",
}
DATA_LICENCE = {
    "mnist": "see its source",
    "cifar10": "unknown, by its card on the Hub",
    "fsdd": "see its source",
}
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
"""Of the code length: where the page shows the curve."""


def bundles_folder() -> Path:
    """Return the folder of the shipped bundles."""
    package = ROOT / "src" / "anytime_ar"
    return next(f for f in (package / "pretrained", package / "bundles") if f.is_dir())


def either(values: dict[str, Any], *keys: str) -> Any:
    """Return the value of the first key that is there; bundles of 0.1 have other names."""
    return next((values[key] for key in keys if values.get(key) is not None), None)


def _shape(card: dict[str, Any]) -> str:
    shape, rate = card["data"]["sample_shape"], card["data"]["sample_rate"]
    if rate is None:
        return " × ".join(map(str, shape))
    return f"{shape[-1] / rate:g} s at {rate / 1000:g} kHz"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _model(folder: Path) -> tuple[list[str], list[str]]:
    """Return a model's row in the table, and its section."""
    card = json.loads((folder / "config.json").read_text())
    curve = json.loads((folder / "curve.json").read_text())
    name, points = card["name"], curve["points"]
    full = points[-1]
    megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    length = curve["code_length"]
    row = [
        f"[`{name}`](#{name})",
        _shape(card),
        str(length),
        str(curve["vocabulary"]),
        f"{full['bits']:,.0f}",
        f"{megabytes:.1f} MB",
        TRAINING_TIME.get(name, "not recorded"),
        LEARNED_FROM.get(name, card["data"]["name"]),
        DATA_LICENCE.get(name, "see its source"),
        _number(full["fd_sample"]),
        f"{full['ms']:.3g}",
    ]
    shown = sorted({min(points, key=lambda p: abs(p["codes"] - s * length))["codes"] for s in SHARES})
    figures = [
        [
            str(p["codes"]),
            f"{p['bits']:,.0f}",
            f"{p['mse']:.4f}",
            _number(p["fd_reconstruction"]),
            _number(p["fd_sample"]),
            _percent(either(p, "label_accuracy_sample", "agreement")),
            f"{p['ms']:.3g}",
        ]
        for p in points
        if p["codes"] in shown
    ]
    near = either(curve, "near_lossless_codes", "lossless_codes")
    section = [
        f"\n## {name}\n",
        f"Trained on {LEARNED_FROM.get(name, card['data']['name'])}, read as "
        f"`{card['data']['name']}`. The classes are {', '.join(card['data']['labels'] or ['none'])}.\n",
        table(
            ["codes", "bits", "MSE", "FD, reconstructions", "FD, samples", "label accuracy, samples", "ms"],
            figures,
        ),
        "",
        table(
            ["", "value"],
            [
                ["samples drawn for the curve", f"{either(curve, 'num_samples', 'samples'):,}"],
                ["test samples", f"{either(curve, 'num_test_samples', 'test_samples'):,}"],
                ["FD of training samples against test samples", _number(either(curve, "fd_train", "floor"))],
                [
                    "label accuracy on real test samples",
                    _percent(either(curve, "label_accuracy_test", "real_accuracy")),
                ],
                ["fewest codes of nearly full quality", f"{near} of {length}" if near else "not measured"],
                ["configuration", f"`anytime train {name}`"],
            ],
        ),
    ]
    return row, section


def page() -> str:
    """Return the page."""
    models = [_model(folder) for folder in sorted(bundles_folder().iterdir()) if folder.is_dir()]
    parts = [
        "# Model zoo\n",
        "Which trained models come with the package, and how good is each?\n",
        "```bash no-run\nanytime sample mnist -n 16 --out digits.png\n```\n",
        "Every figure comes from the `curve.json` in the bundle. "
        "This page is generated by `docs/build/model_zoo.py`.\n",
        table(
            [
                "model", "sample", "code length", "vocabulary", "bits",
                "bundle", "training time", "data", "licence of the data", "FD, samples", "ms",
            ],
            [row for row, _ in models],
        ),
        "\n- **Bits** are those of all codes: code length times log2 of the vocabulary.",
        "- **FD** is the Fréchet distance to the test split, at all codes. "
        "It uses the features of a classifier of that data set. Figures of different data sets do not compare.",
        "- **ms** is the time of one sample with all codes on one core of a shared CPU.",
        "- **Bundle** is the size of all files of the model.\n",
        "Standard errors and the sampling parameters of each curve are in `curve.json`. "
        "See [Results](results.md) for other methods.\n",
        "## Licence\n",
        "The models are part of the package and carry its licence, Apache-2.0. "
        "The data sets are not part of it and have their own. "
        "Read the terms of a data set at its source before you redistribute models or samples.",
        *(line for _, section in models for line in section),
    ]
    return "\n".join(parts) + "\n"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    if parser.parse_args().check:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        print(f"{PAGE}: {'is current' if current else 'is not current; run without --check'}")
        return 0 if current else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
