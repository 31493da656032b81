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

from tables import table

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
PICTURE = {
    "mnist": "![Digits after 1 to 16 codes](sharpening.png)",
    "cifar10": "![CIFAR-10 samples after 1 to 64 codes](cifar10.png)",
    "fsdd": "![Spectrograms of the same words after 28 to 896 codes](sounds.png)",
}
EVALUATE = {
    "mnist": "anytime evaluate runs/mnist",
    "cifar10": "anytime evaluate runs/cifar10 "
    "--codes '[1,2,4,6,8,12,16,20,24,28,32,38,40,48,56,64]'",
    "fsdd": "anytime evaluate runs/fsdd --unordered runs/fsdd-unordered --num-samples 2000",
}
UNORDERED = {
    "fsdd": """anytime train fsdd --name fsdd-unordered --prior null \\
  --autoencoder-training.truncation.distribution full \\
  --autoencoder.quantizer.kind vq --autoencoder.quantizer.error-feedback false
""",
}
NOTES = {
    "mnist": """\
- With `guidance=[1, 1.5]`, all codes reach an FD of 0.96 and a label accuracy of 98.3 %. Guidance
  takes twice the rows of a batch.
- Two other classifiers agree on short prefixes. For them six codes are already as good as
  sixteen, or better.
- Samples are about as near to training images as reconstructed test images are: their distance
  ratio is 0.98 to 1.06.
""",
    "cifar10": """\
- Codes are residual VQ over a 4x4 grid: four levels of 16 positions, visited in Bayer order.
  Early codes cover the whole image.
- Colours, settings and outlines are right; details are not.
- The shipped model is the first of three seeds that were tried. At all codes the others stand at
  29 and 35.
- With 60 % of the codes the shipped model loses 4 % of its FD. The other seeds lose 14 % and 1 %.
- Samples are no nearer to training images than reconstructed test images are: their distance
  ratio is 1.01 to 1.16.
""",
    "fsdd": """\
- A quarter of the codes says the word; the rest says how it sounds.
- Reconstructions improve up to the last code. Samples are best from 45 % of the codes on, and 4 %
  worse at all of them.
- Samples sound like words spoken through noise: 2,430 clips teach a prior what is said, and
  little about waveforms.
- Guidance of 4 costs variety. At all codes precision is 0.52 and recall 0.09; training clips have
  0.85 and 0.91.
- High frequencies that the codes leave out are filled with noise of the level that the codes
  give.
""",
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
        return " x ".join(map(str, shape))
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
    shown = sorted(
        {min(points, key=lambda p: abs(p["codes"] - s * length))["codes"] for s in SHARES}
    )
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
    chosen = [p for p in points if p["codes"] in shown]
    sets = [
        [
            str(p["codes"]),
            *_set_quality(p, "reconstruction_metrics", "reconstructions"),
            *_set_quality(p, "sample_metrics", "samples"),
        ]
        for p in chosen
        if either(p, "sample_metrics", "samples")
    ]
    training = either(curve, "train_metrics", "floor_quality")
    if sets and training:
        sets.append(
            [
                "training samples",
                "",
                "",
                f"{training['precision']:.2f}",
                f"{training['recall']:.2f}",
            ]
        )
    pca = {p["codes"]: p["mse"] for p in curve["baselines"].get("pca", [])}
    unordered = {p["codes"]: p for p in curve["baselines"].get("unordered", [])}
    audio = [
        _audio_row(p, unordered.get(p["codes"])) for p in chosen if either(p, "metrics", "measures")
    ]
    reproduce = (
        f"```bash no-run\nanytime train {name}\nanytime train-classifier {name}\n"
        f"{UNORDERED.get(name, '')}{EVALUATE.get(name, f'anytime evaluate runs/{name}')}\n```"
    )
    near = either(curve, "near_lossless_codes", "lossless_codes")
    section = [
        f"\n## {name}\n",
        PICTURE.get(name, "") + "\n",
        f"Trained on {LEARNED_FROM.get(name, card['data']['name'])}, read as "
        f"`{card['data']['name']}`. Classes: {', '.join(card['data']['labels'] or ['none'])}.\n",
        table(
            [
                "codes",
                "bits",
                "MSE",
                "FD, reconstructions",
                "FD, samples",
                "label accuracy, samples",
                "ms",
            ],
            figures,
        ),
        "",
        table(
            ["", "value"],
            [
                ["samples drawn for the curve", f"{either(curve, 'num_samples', 'samples'):,}"],
                ["test samples", f"{either(curve, 'num_test_samples', 'test_samples'):,}"],
                [
                    "FD of training samples against test samples",
                    _number(either(curve, "fd_train", "floor")),
                ],
                [
                    "label accuracy on real test samples",
                    _percent(either(curve, "label_accuracy_test", "real_accuracy")),
                ],
                [
                    "fewest codes of nearly full quality",
                    f"{near} of {length}" if near else "not measured",
                ],
                ["sampling parameters", _sampling_parameters(card)],
            ],
        ),
    ]
    if sets:
        header = ["codes", "precision, reconstructions", "recall", "precision, samples", "recall"]
        section += ["\nPrecision and recall in feature space:\n", table(header, sets)]
    if audio:
        header = [
            "codes",
            "kbit/s",
            "SNR, dB",
            "STFT distance",
            "mel distance, dB",
            "STOI",
            "label accuracy, reconstructions",
        ]
        seconds = card["data"]["sample_shape"][-1] / card["data"]["sample_rate"]
        rows = [
            [r[0], f"{p['bits'] / seconds / 1000:.2f}", *r[1:]]
            for p, r in zip(chosen, audio, strict=True)
        ]
        section += [
            "\nReconstructions; in brackets an autoencoder trained without truncation:\n",
            table(header, rows),
        ]
    if pca:
        rows = [
            [str(p["codes"]), f"{p['mse']:.4f}", f"{pca[p['codes']]:.4f}"]
            for p in chosen
            if p["codes"] in pca
        ]
        section += [
            "\nMSE beside as many PCA coefficients, which are real numbers:\n",
            table(["codes", "MSE", "MSE of PCA"], rows),
        ]
    section += ["", NOTES.get(name, ""), "To train and measure it again:\n", reproduce]
    return row, section


def _set_quality(point: dict[str, Any], *keys: str) -> list[str]:
    """Return precision and recall of a set of samples."""
    found = either(point, *keys)
    return [f"{found['precision']:.2f}", f"{found['recall']:.2f}"] if found else ["", ""]


def _audio_row(point: dict[str, Any], other: dict[str, Any] | None) -> list[str]:
    """Return the metrics of audio, with those of the unordered baseline in brackets."""
    found = either(point, "metrics", "measures")
    beside = (either(other, "metrics", "measures") if other else None) or {}
    accuracy = either(point, "label_accuracy_reconstruction", "accuracy")
    unordered = either(other, "label_accuracy_reconstruction", "accuracy") if other else None
    bracket = f" ({beside['snr']:.2f})" if "snr" in beside else ""
    return [
        str(point["codes"]),
        f"{found['snr']:.2f}{bracket}",
        f"{found['stft']:.3f}",
        f"{found['mel']:.2f}",
        f"{found['stoi']:.3f}",
        _percent(accuracy) + (f" ({_percent(unordered)})" if unordered is not None else ""),
    ]


def _sampling_parameters(card: dict[str, Any]) -> str:
    """Return the defaults of the model that differ from plain sampling."""
    plain = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "guidance": 1.0}
    found = either(card, "sampling_params", "choice") or {}
    changed = [f"`{key}={value}`" for key, value in found.items() if value != plain.get(key)]
    return ", ".join(changed) or "plain: temperature 1, no guidance"


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
                "model",
                "sample",
                "code length",
                "vocabulary",
                "bits",
                "bundle",
                "training time",
                "data",
                "licence of the data",
                "FD, samples",
                "ms",
            ],
            [row for row, _ in models],
        ),
        "\n- **Bits** are those of all codes: code length times log2 of the vocabulary.",
        "- **FD** is the Fréchet distance to the test split, at all codes. "
        "It uses the features of a classifier of that data set. "
        "Figures of different data sets do not compare.",
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
        state = "is current" if current else "is not current; run without --check"
        sys.stdout.write(f"{PAGE}: {state}\n")
        return 0 if current else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
