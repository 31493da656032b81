"""Train on digits or audio, sample at every budget, and show how quality rises with the codes."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import yaml
from jsonargparse import Namespace

from anytime_ar.autoencoder import TruncationConfig
from anytime_ar.cli.options import (
    add_run_options,
    print_result,
    progress_bar,
    tune_threads_from,
)
from anytime_ar.cli.parser import Parser, config_path, literal_path
from anytime_ar.cli.sample_files import SampleFiles
from anytime_ar.cli.train import Experiment
from anytime_ar.cli.train_classifier import train_and_save_classifier
from anytime_ar.data import load_data
from anytime_ar.errors import InputError, require_extras
from anytime_ar.evaluation import curve_table, evaluate, write_report
from anytime_ar.runtime.files import check_output_path
from anytime_ar.sampling import load
from anytime_ar.training import train

NUM_SHOWN = 10
"""Number of samples that are written as images or clips."""
NUM_SAMPLES = {"digits": 10_000, "sounds": 2_000}
"""Number of samples for the Fréchet distance, by configuration."""


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime demo`."""
    parser.add_argument("--audio", action="store_true", help="audio instead of digits")
    parser.add_argument(
        "--out", type=literal_path, help="folder; default runs/demo, with --audio runs/demo-audio"
    )
    parser.add_argument("--seed", type=int, default=0)
    add_run_options(parser)


def run(arguments: Namespace) -> None:
    """Train the models of the demo, evaluate them, and write samples and curve."""
    name = "sounds" if arguments.audio else "digits"
    folder = arguments.out or Path("runs/demo-audio" if arguments.audio else "runs/demo")
    if folder.exists():
        raise InputError(f"{folder} exists; remove it, or choose another folder with --out")
    check_output_path(folder, is_folder=True)
    require_extras("the demo", "train", "eval", *(["audio"] if arguments.audio else []))
    values = yaml.safe_load(config_path(name).read_text(encoding="utf-8"))
    experiment = Experiment.parse(values | {"seed": arguments.seed}, origin=f"{name}.yaml")
    tune_threads_from(arguments)
    data = load_data(experiment.data)
    begin = time.perf_counter()
    features = train_and_save_classifier(experiment, data, folder / "features", arguments.device)
    train(experiment, folder / "ordered", device=arguments.device, data=data)
    train(
        unordered_experiment(experiment), folder / "unordered", device=arguments.device, data=data
    )
    seconds = time.perf_counter() - begin
    model = load(folder / "ordered", device=arguments.device)
    budgets = demo_budgets(model.code_length)
    with progress_bar("evaluate") as progress:
        curve = evaluate(
            model,
            data,
            features.extractor,
            samples=NUM_SAMPLES[name],
            codes=budgets,
            unordered=load(folder / "unordered", device=arguments.device),
            seed=arguments.seed,
            progress=progress,
        )
    write_report(curve, folder)
    files = SampleFiles(model)
    shown = {
        "samples": model.sample_codes(NUM_SHOWN, seed=arguments.seed),
        "reconstructions": model.encode(next(data.test.batches(NUM_SHOWN)).data),
    }
    for stem, codes in shown.items():
        files.write_budgets(codes, budgets, files.output_path(None, str(folder / stem)))
    print(f"trained in {seconds:.0f} s", file=sys.stderr)
    print_result(
        arguments,
        f"{curve_table(curve)}\n\n{folder}: {model.media.noun} as samples and reconstructions, "
        "curve.png, curve.json; the model is in ordered/",
        training_seconds=round(seconds, 1),
        **curve.model_dump(mode="json"),
    )


def demo_budgets(code_length: int) -> list[int]:
    """Return the numbers of codes to show: all up to 16 codes, else eight from L/32 to L."""
    if code_length <= 16:
        return list(range(1, code_length + 1))
    return [math.ceil(code_length * share / 32) for share in (1, 2, 4, 8, 12, 16, 24, 32)]


def unordered_experiment(experiment: Experiment) -> Experiment:
    """Return the experiment without ordered codes, as a comparison.

    It trains without truncation, without an initialization that orders codes, and without a prior.
    """
    quantizer = experiment.autoencoder.quantizer.unordered()
    autoencoder = experiment.autoencoder.model_copy(update={"quantizer": quantizer})
    options = experiment.autoencoder_training
    plain = options.model_copy(
        update={"scheme": "one_stage", "truncation": TruncationConfig(distribution="full")}
    )
    name = f"{experiment.name}-unordered"
    return experiment.model_copy(
        update={
            "name": name,
            "autoencoder": autoencoder,
            "autoencoder_training": plain,
            "prior": None,
        }
    )
