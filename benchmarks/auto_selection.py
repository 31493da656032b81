"""Compare what is selected automatically on this machine with the best of all candidates.

    python benchmarks/auto_selection.py avx2 avx512bf16 --out runs/auto_selection

Each instruction set has its own process, in which kernel and PyTorch are limited to it, with one
thread. For each batch size it times all candidates interleaved: sampling in float32 and in any
precision, and decoding. Then it times training steps of both stages of two configurations, in
float32 and in bfloat16. One candidate is selected for all batch sizes, so that a sample does not
depend on its batch; a training run selects for its batch size. A ratio of 1.10 means that the
selected candidate takes 10 % longer than the best: median over rounds, and range.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from instruction_sets import ISA_LIMITS, isa_environment

from anytime_ar.cli.parser import config_path
from anytime_ar.cli.train import Experiment
from anytime_ar.data import DataSplits, load_data
from anytime_ar.evaluation.report import align_table
from anytime_ar.kernel import cpu_name, load_kernel
from anytime_ar.prior.decoders.base import Precision
from anytime_ar.runtime.files import write_json
from anytime_ar.runtime.timing import BenchmarkCase, time_interleaved
from anytime_ar.sampling import load
from anytime_ar.training import train

CONFIGS = ("digits", "sounds")
"""Configurations whose training steps are timed."""
MODELS = ("mnist", "cifar10", "fsdd")
"""Shipped models whose sampling and decoding are timed."""
MAX_CODES = 64
"""Maximum number of codes per sample. All codes of the audio model would take hours."""
MAX_SLOWDOWN = 10
"""Maximum time for one row, relative to the fastest candidate, to be timed further."""
FORMATS = ("32-true", "bf16-mixed")
"""Precisions of training steps, as Fabric names them."""
STEP_S = 1.5
"""Approximate seconds of training per measurement."""


def main() -> None:
    """Measure each instruction set in its own process and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", choices=ISA_LIMITS, help="instruction sets")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 16, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("sampling", "training"))
    parser.add_argument("--out", type=Path, default=Path("runs/auto_selection"))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # child process
    options = parser.parse_args()
    if options.here:
        torch.set_num_threads(1)
        print(json.dumps(measure(options)))
        return
    found = {}
    for name in options.sets:
        command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--here"]
        done = subprocess.run(
            command, env=isa_environment(name), stdout=subprocess.PIPE, text=True, check=True
        )
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(table(name, found[name]), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "auto_selection.json", found)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time all candidates for sampling, decoding and training."""
    loaded = load_kernel()
    rows = []
    if options.only != "training":
        for name in MODELS:
            rows += sampling(name, options.rows, options.rounds)
    if options.only != "sampling":
        for name, size in product(CONFIGS, options.rows):
            rows += training(name, size, options.rounds)
    return {
        "processor": cpu_name(),
        "instructions": loaded.instruction_set,
        "torch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        "rows": rows,
    }


def sampling(name: str, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """Time sampling and decoding of a shipped model.

    Args:
        name: name of the model.
        sizes: batch sizes.
        rounds: number of interleaved rounds.

    Returns:
        A row of the table for each task and batch size.
    """
    models = {
        f"{backend} {precision}": load(name, backend=backend, precision=precision)
        for backend, precision in product(("native", "portable"), get_args(Precision))
    }
    first = next(iter(models.values()))
    most = min(MAX_CODES, first.code_length)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(first.vocabulary, (max(sizes), first.code_length), generator=generator)
    cases = [
        BenchmarkCase(way, lambda n, model=model: model.sample_codes(n, codes=most, seed=0))
        for way, model in models.items()
    ]
    # Emulated products take 100 times as long, minutes for 256 rows, and are never the best.
    once = {one.name: one.seconds[0] for one in time_interleaved(cases, [1], rounds=1)}
    cases = [each for each in cases if once[each.name] <= MAX_SLOWDOWN * min(once.values())]
    times = time_interleaved(cases, sizes, rounds=rounds)
    of_float32 = [timing for timing in times if timing.name.endswith("float32")]
    free, plain = load(name, precision="auto"), load(name)
    decoding = {way: models[f"{way} float32"] for way in ("native", "portable")}
    decoders = [
        # Repeat, because the first decode finds the caches filled by the previous case.
        BenchmarkCase(way, lambda n, model=model: [model.decode(codes[:n]) for _ in range(10)])
        for way, model in ({"automatic": plain} | decoding).items()
    ]
    decodes = time_interleaved(decoders, sizes, rounds=rounds)
    return [
        compare_to_best(
            name, what, size, chosen, [each for each in timed if each.batch_size == size]
        )
        for what, chosen, timed in (
            ("codes, float32", f"{plain.backend} float32", of_float32),
            ("codes, any precision", f"{free.backend} {free.precision}", times),
            ("decode", "automatic", decodes),
        )
        for size in sizes
    ]


def training(name: str, size: int, rounds: int) -> list[dict[str, Any]]:
    """Time training steps of both stages of a configuration at a batch size.

    Args:
        name: name of the configuration.
        size: batch size.
        rounds: number of interleaved rounds.

    Returns:
        A row of the table for each stage.
    """
    values = yaml.safe_load(config_path(name).read_text(encoding="utf-8"))
    data = load_data(Experiment.parse(values, origin=name).data)
    for stage in ("autoencoder_training", "prior_training"):
        values[stage] |= {"batch_size": size, "steps": 4}
    values["prior_training"]["augmented_copies"] = 1
    values |= {"precision": "auto", "log_every": 1}
    auto = time_training_steps(values, data)
    seconds: dict[str, dict[str, list[float]]] = {stage: {} for stage in auto}
    for stage in ("autoencoder", "prior"):
        values[f"{stage}_training"]["steps"] = 4 + round(STEP_S / auto[stage]["seconds"])
    for turn in range(rounds):
        for precision in FORMATS if turn % 2 else FORMATS[::-1]:
            for stage, found in time_training_steps(
                values | {"precision": precision}, data
            ).items():
                seconds[stage].setdefault(precision, []).append(found["seconds"])
    return [
        compare_to_best(name, f"step of {stage}", size, auto[stage]["precision"], timed)
        for stage, timed in seconds.items()
    ]


def time_training_steps(values: dict[str, Any], data: DataSplits) -> dict[str, dict[str, Any]]:
    """Train for a few steps and return the seconds per step and the precision, by stage.

    Validation, which follows every step that is logged, and the first two steps are not counted.
    """
    config = Experiment.parse(values, origin="benchmark")
    with tempfile.TemporaryDirectory() as place:
        train(config, place, device="cpu", show_progress=False, data=data)
        lines = [json.loads(line) for line in (Path(place) / "log.jsonl").open(encoding="utf-8")]
    found: dict[str, dict[str, Any]] = {}
    for before, line in pairwise([{}, *lines]):
        if "precision" in line:
            found[line["stage"]] = {"precision": line["precision"], "times": []}
        elif "loss" in line and "step" in line:
            found[line["stage"]]["times"].append(line["time"] - before["time"])
    return {
        stage: {"precision": each["precision"], "seconds": statistics.mean(each["times"][2:])}
        for stage, each in found.items()
    }


def compare_to_best(name: str, what: str, rows: int, chosen: str, timed: Any) -> dict[str, Any]:
    """Return a table row with all times, and the selected candidate beside the best."""
    seconds = timed if isinstance(timed, dict) else {one.name: one.seconds for one in timed}
    ways = [way for way in seconds if way != "automatic"]
    best = min(ways, key=lambda way: statistics.median(seconds[way]))
    ratios = sorted(a / b for a, b in zip(seconds[chosen], seconds[best], strict=True))
    return {
        "model": name,
        "what": what,
        "rows": rows,
        "chosen": chosen,
        "best": best,
        "ratio": [ratios[0], statistics.median(ratios), ratios[-1]],
        "seconds": seconds,
    }


def table(name: str, found: dict[str, Any]) -> str:
    """Return the table of an instruction set, one line for each selection."""
    rows = [["model", "what", "rows", "chosen", "best", "chosen / best"]]
    for row in found["rows"]:
        least, middle, most = row["ratio"]
        spread = f"{middle:.2f} ({least:.2f}..{most:.2f})"
        rows.append(
            [row["model"], row["what"], str(row["rows"]), row["chosen"], row["best"], spread]
        )
    head = f"{name} ({found['processor']}; {found['instructions']}; torch {found['torch']})"
    return f"{head}\n{align_table(rows)}"


if __name__ == "__main__":
    main()
