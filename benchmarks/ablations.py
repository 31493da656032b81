r"""Ablations of a training recipe: one change at a time, evaluated by the samples.

    python benchmarks/ablations.py benchmarks/ablations/mnist.yaml --data path/to/mnist \
        --feature-extractor runs/features/mnist --out runs/ablations/mnist

Trains every variant of a file one after the other, and resumes what an earlier call has begun.
Several calls can split the work with `--only`. Variants that differ only in the prior share their
autoencoder. The table shows reconstruction and sample FD at fractions of the codes. It also shows
the mean of the sample FD over the bits that all its variants reach, the area under the curve.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

from anytime_ar.bundle.curve import Curve
from anytime_ar.cli.parser import config_path
from anytime_ar.cli.train import Experiment
from anytime_ar.data import DataSplits, load_data
from anytime_ar.evaluation import FeatureExtractor, evaluate, load_feature_extractor
from anytime_ar.evaluation.compare import fd_by_cost, mean_over_interval
from anytime_ar.evaluation.report import align_table, format_distance
from anytime_ar.runtime.files import write_bytes, write_json
from anytime_ar.sampling import AnytimeModel
from anytime_ar.training import train

CODE_FRACTIONS = (0.125, 0.25, 0.4, 0.5, 0.75, 1.0)
"""Fractions of the code length that the table shows."""
NON_AUTOENCODER_SETTINGS = {
    "name",
    "prior",
    "prior_training",
    "conditional",
    "sampling_params",
    "feature_extractor",
    "decoder_gan",
}
"""Settings that do not change the first training of the autoencoder."""


def main() -> None:
    """Train and evaluate the variants, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="base, common changes, and variants")
    parser.add_argument("--data", help="where the data set lies; default: as configured")
    parser.add_argument("--feature-extractor", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", help="variants to train; the table has all there are")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    options = parser.parse_args()
    plan = yaml.safe_load(options.file.read_text(encoding="utf-8"))
    base = yaml.safe_load(config_path(plan["base"]).read_text(encoding="utf-8"))
    variants = {
        name: _config(base, plan.get("common", {}) | (changes or {}), name, options.data)
        for name, changes in plan["variants"].items()
    }
    chosen = options.only or list(variants)
    data = load_data(variants[chosen[0]].data)
    network = load_feature_extractor(options.feature_extractor).extractor
    for name in chosen:
        _train_and_evaluate(variants[name], variants, data, network, options.out, options.samples)
    found = {
        name: Curve.read(options.out / name / "curve.json")
        for name in variants
        if (options.out / name / "curve.json").is_file()
    }
    text = _table(found)
    print(text)
    write_bytes(options.out / "table.txt", f"{text}\n".encode())
    write_json(options.out / "areas.json", _areas_under_curves(found))


def _config(
    base: dict[str, Any], changes: dict[str, Any], name: str, data: str | None
) -> Experiment:
    """Return a configuration with dotted settings changed.

    Args:
        base: settings to start from.
        changes: new values by dotted name.
        name: name of the variant.
        data: path or name of the data set; None: as configured.
    """
    values = json.loads(json.dumps(base)) | {"name": name}
    for key, value in changes.items():
        *path, last = key.split(".")
        place = values
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    if data is not None:
        values["data"] = values.get("data", {}) | {"name": data}
    return Experiment.parse(values, origin=name)


def _train_and_evaluate(
    config: Experiment,
    others: dict[str, Experiment],
    data: DataSplits,
    network: FeatureExtractor,
    out: Path,
    samples: int,
) -> None:
    """Train and evaluate one variant, unless its curve exists."""
    folder = out / config.name
    if (folder / "curve.json").is_file():
        return
    print(f"{config.name}:", flush=True)
    if not (folder / "config.yaml").is_file():
        _reuse_trained_autoencoder(config, others, out)
    bundle = train(config, folder, resume=True, device="cpu", data=data)
    model = AnytimeModel(bundle, device="cpu")
    curve = evaluate(model, data, network, samples=samples)
    write_bytes(folder / "curve.json", curve.to_json().encode())
    print(_table({config.name: curve}), flush=True)


def _reuse_trained_autoencoder(
    config: Experiment, others: dict[str, Experiment], out: Path
) -> None:
    """Copy the checkpoints of an autoencoder trained with the same settings, if one exists."""
    wanted = config.model_dump(exclude=NON_AUTOENCODER_SETTINGS)
    for name, other in others.items():
        trained = sorted((out / name / "checkpoints").glob("autoencoder-*"))
        same = other.model_dump(exclude=NON_AUTOENCODER_SETTINGS) == wanted
        if same and (out / name / "curve.json").is_file():
            folder = out / config.name
            (folder / "checkpoints").mkdir(parents=True)
            for file in trained:
                shutil.copy(file, folder / "checkpoints")
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            write_bytes(folder / "config.yaml", text.encode())
            return


def _areas_under_curves(curves: dict[str, Curve]) -> dict[str, float]:
    """Return the mean sample FD of each curve over the bits that all of them reach."""
    traces = {name: fd_by_cost(curve, "bits") for name, curve in curves.items()}
    least = max(points[0][0] for points in traces.values())
    most = min(points[-1][0] for points in traces.values())
    return {name: mean_over_interval(points, least, most) for name, points in traces.items()}


def _table(curves: dict[str, Curve]) -> str:
    """Return the table: FD of reconstructions and samples by fraction of the codes, and the NLL."""
    rows = [["", *[f"{share:g} L" for share in CODE_FRACTIONS], "mean", "best", "error", "nats"]]
    areas = _areas_under_curves(curves)
    for name, curve in curves.items():
        points = {point.codes: point for point in curve.points}
        cells = []
        for share in CODE_FRACTIONS:
            point = points[max(1, round(share * curve.code_length))]
            cells.append(
                f"{format_distance(point.fd_reconstruction)}/{format_distance(point.fd_sample)}"
            )
        best = min(point.fd_sample or 0.0 for point in curve.points)
        cells += [
            format_distance(areas[name]),
            format_distance(best),
            f"{curve.points[-1].mse:.4f}",
        ]
        rows.append([name, *cells, f"{curve.nll_test:.3f}"])
    return align_table(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
