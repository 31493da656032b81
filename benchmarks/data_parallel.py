"""Measure what a second training process gains: steps per second of one and of two, interleaved.

    python benchmarks/data_parallel.py mnist --data path/to/mnist

Both use the same configuration, shortened to a few hundred steps per stage, and the same batches.
Every process has one thread. Steps are counted from the log, without startup and the first steps.
Losses are compared as well: with dropout they differ as between two seeds, without it only by
rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from anytime_ar.cli.parser import config_path
from anytime_ar.evaluation.report import align_table
from anytime_ar.runtime.files import write_json

STAGES = ("autoencoder", "decoder_gan", "prior")
"""Training stages whose steps are counted."""


def main() -> None:
    """Train with one and two processes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="name or file")
    parser.add_argument("--data", help="where the data set lies; default: as configured")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, help="of all stages; default: as configured")
    parser.add_argument("--out", type=Path, default=Path("runs/data_parallel.json"))
    options = parser.parse_args()
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as place:
        config = _shorten_config(options, Path(place))
        for number in range(options.rounds):
            for count in (1, 2) if number % 2 == 0 else (2, 1):
                found[count].append(_train(config, Path(place) / f"{number}-{count}", count))
    rows = [["stage", "1 process, steps/s", "2 processes", "ratio", "last loss, 1", "2"]]
    figures: dict[str, Any] = {"config": options.config, "steps": options.steps, "stages": {}}
    for stage in found[1][0]:
        rates = {count: [one[stage]["rate"] for one in runs] for count, runs in found.items()}
        ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
        losses = [found[count][0][stage]["loss"] for count in (1, 2)]
        figures["stages"][stage] = {"rates": rates, "ratios": ratios, "losses": losses}
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append(
            [
                stage,
                *(f"{statistics.median(rates[count]):.2f}" for count in (1, 2)),
                f"{statistics.median(ratios):.2f} ({spread})",
                *(f"{loss:.4f}" for loss in losses),
            ]
        )
    print(align_table(rows))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, figures)


def _shorten_config(options: argparse.Namespace, place: Path) -> Path:
    """Write the configuration with fewer steps, and return its path."""
    values = yaml.safe_load(config_path(options.config).read_text(encoding="utf-8"))
    if options.data is not None:
        values["data"] = values.get("data", {}) | {"name": options.data}
    for stage in ("autoencoder_training", "decoder_gan", "prior_training"):
        if values.get(stage) is not None:
            values[stage]["steps"] = options.steps
            if options.batch_size is not None:
                values[stage]["batch_size"] = options.batch_size
    if values.get("prior_training") is not None:
        values["prior_training"] |= {
            "augmented_copies": 1,
            "augmentation": {},
            "validate_every": options.steps,
        }
    values |= {"log_every": 10, "checkpoint_every_minutes": 1000.0}
    config = place / "shortened.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    return config


def _train(config: Path, out: Path, count: int) -> dict[str, Any]:
    """Train with some processes, and return steps per second and the last loss, by stage."""
    command = [sys.executable, "-m", "anytime_ar", "train", str(config), "--out", str(out)]
    subprocess.run(
        [*command, "--devices", str(count), "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    found = {}
    for stage in STAGES:
        own = [line for line in lines if line.get("stage") == stage and "seconds" in line]
        if own:
            # The median ignores intervals that include a validation.
            seconds = [
                (b["seconds"] - a["seconds"]) / (b["step"] - a["step"])
                for a, b in pairwise(own[len(own) // 5 :])
            ]
            found[stage] = {"rate": 1 / statistics.median(seconds), "loss": own[-1]["loss"]}
    return found


if __name__ == "__main__":
    main()
