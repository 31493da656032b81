"""Train on digits, sample at every budget, and show that quality rises with the number of codes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import yaml
from jsonargparse import Namespace

from anytime_ar.autoencoder import TruncationConfig
from anytime_ar.cli.experiment import Experiment
from anytime_ar.cli.features import make_features
from anytime_ar.cli.options import add_device, add_json, progress_bar, show
from anytime_ar.cli.parser import Parser, config_path
from anytime_ar.data import load_data
from anytime_ar.errors import InputError
from anytime_ar.evaluation import (
    contact_sheet,
    evaluate,
    table,
    write_contact_sheet,
    write_report,
)
from anytime_ar.sampling import load
from anytime_ar.training import train

PICTURED = 10
"""Rows of the picture of samples."""


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    add_device(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    folder: Path = arguments.out
    if folder.exists():
        raise InputError(f"{folder} exists; remove it, or choose another folder with --out")
    values = yaml.safe_load(config_path("digits").read_text(encoding="utf-8"))
    experiment = Experiment.parse(values | {"seed": arguments.seed}, origin="digits.yaml")
    data = load_data(experiment.data)
    begin = time.perf_counter()
    features = make_features(experiment, data, folder / "features", arguments.device)
    train(experiment, folder / "ordered", device=arguments.device, data=data)
    train(unordered(experiment), folder / "unordered", device=arguments.device, data=data)
    seconds = time.perf_counter() - begin
    model = load(folder / "ordered", device=arguments.device)
    with progress_bar("evaluate") as progress:
        curve = evaluate(
            model,
            data,
            features.network,
            unordered=load(folder / "unordered", device=arguments.device),
            seed=arguments.seed,
            progress=progress,
        )
    write_report(curve, folder)
    budgets = range(1, model.code_length + 1)
    sheet = contact_sheet(model, model.sample_codes(PICTURED, seed=arguments.seed), budgets)
    write_contact_sheet(sheet, budgets, folder / "samples.png")
    print(f"trained in {seconds:.0f} s", file=sys.stderr)
    show(
        arguments,
        f"{table(curve)}\n\n{folder}: samples.png, curve.png, curve.json; the model is in ordered/",
        training_seconds=round(seconds, 1),
        **curve.model_dump(mode="json"),
    )


def unordered(experiment: Experiment) -> Experiment:
    """The same autoencoder trained without truncation, and no prior."""
    options = experiment.autoencoder_training
    plain = options.model_copy(
        update={"scheme": "one_stage", "truncation": TruncationConfig(distribution="full")}
    )
    name = f"{experiment.name}-unordered"
    return experiment.model_copy(
        update={"name": name, "autoencoder_training": plain, "prior": None}
    )
