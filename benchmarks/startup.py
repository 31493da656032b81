"""Time whole processes from start to end: what a command costs before it works.

    python benchmarks/startup.py --rounds 9 --out runs/startup.json

Every round runs each command once, so that a slow machine slows all of them. `first` samples with a
cache folder that holds only the compiled kernel, as after an installation. Then one process reports
how its time splits into parts. Python stores compiled modules, as after `pip install`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anytime_ar.evaluation.report import align_table
from anytime_ar.runtime.files import cache_folder, write_json

MODEL = "mnist"
"""Shipped model that the commands use."""
BASE = "import torch"
"""Process whose time the table subtracts."""
FIRST = "sample, first"
"""Name of the command that runs with an almost empty cache folder."""
PARTS = """
import json, sys, time
marks = [time.perf_counter()]
def mark():
    marks.append(time.perf_counter())
import torch; mark()
from anytime_ar import AnytimeModel
from anytime_ar.bundle.format import find_bundle, load_bundle; mark()
bundle = load_bundle(find_bundle(sys.argv[1])); mark()
model = AnytimeModel(bundle, device="cpu"); x = model.sample(1, seed=0); mark()
model.sample(1, seed=0); mark()
from anytime_ar.media.image import write_image; mark()
write_image(sys.argv[2], x[0]); mark()
print(json.dumps([after - before for before, after in zip(marks, marks[1:])]))
"""
"""Script that times the parts of one sample."""
NAMES = ("import torch", "import ours", "read and check", "lay out, draw", "draw again")
"""Names of the parts in the order of the script."""
NAMES += ("import pictures", "write PNG")


def main() -> None:
    """Time all commands and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("runs/startup.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        seconds, parts = _measure(options.rounds, Path(place))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    rows = [["process", "seconds", f"over {BASE}", "fastest", "slowest"]]
    for name, taken in seconds.items():
        figures = (medians[name], medians[name] - medians[BASE], min(taken), max(taken))
        rows.append([name, *(f"{figure:.3f}" for figure in figures)])
    print(align_table(rows))
    inside = {name: statistics.median(taken) for name, taken in parts.items()}
    print(align_table([["part", "ms"], *([name, f"{1000 * s:.1f}"] for name, s in inside.items())]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figures = {"machine": _machine(), "rounds": options.rounds, "seconds": medians, "parts": inside}
    write_json(options.out, figures)


def _measure(rounds: int, place: Path) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the seconds of each round by command, and by part of a sample."""
    env = {key: to for key, to in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    seconds: dict[str, list[float]] = {}
    parts: dict[str, list[float]] = {}
    commands = _commands(place)
    for number in range(rounds + 1):
        fresh = place / f"cache{number}"
        shutil.copytree(cache_folder() / "native", fresh / cache_folder().name / "native")
        for name, command in commands.items():
            cache = {"XDG_CACHE_HOME": str(fresh)} if name == FIRST else {}
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env | cache)
            taken = time.perf_counter() - begin
            if number:  # the first round compiles modules and fills the caches of the system
                seconds.setdefault(name, []).append(taken)
        script = [sys.executable, "-c", PARTS, MODEL, str(place / "part.png")]
        output = subprocess.run(script, check=True, stdout=subprocess.PIPE, env=env).stdout
        for name, taken in zip(NAMES, json.loads(output), strict=True):
            if number:
                parts.setdefault(name, []).append(taken)
    return seconds, parts


def _commands(place: Path) -> dict[str, list[str]]:
    """Return the command lines to time, by name, and create the files that they read."""
    anytime = [sys.executable, "-m", "anytime_ar"]
    out, state, codes = (str(place / name) for name in ("one.png", "state", "codes.npz"))
    draw = [*anytime, "sample", MODEL, "-n", "1", "--out", out]
    library = f"import anytime_ar as aar; aar.load({MODEL!r}).sample(1)"
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([*draw, "--codes", "2", "--save-state", state], **quiet)
    subprocess.run([*anytime, "encode", MODEL, out, "--out", codes], **quiet)
    return {
        "python": [sys.executable, "-c", "pass"],
        BASE: [sys.executable, "-c", BASE],
        "anytime --help": [*anytime, "--help"],
        "sample --help": [*anytime, "sample", "--help"],
        "train --help": [*anytime, "train", "--help"],
        "sample": draw,
        FIRST: draw,
        "encode": [*anytime, "encode", MODEL, out],
        "decode": [*anytime, "decode", MODEL, codes, "--out", out],
        "refine": [*anytime, "refine", MODEL, state, "--out", out],
        "load, sample(1)": [sys.executable, "-c", library],
    }


def _machine() -> dict[str, str | int | None]:
    """Return the processor, its instruction set, and the versions in use."""
    import torch

    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    return {
        "processor": names[0] if names else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
