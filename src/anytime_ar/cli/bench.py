"""Time a model on this machine: codes per second (`speed`), or missed deadlines (`deadlines`).

`speed` times all precisions and backends, and the bare matrix products of the same weights (the
floor). It also times `generate` of Hugging Face transformers on a Llama of the same size. All cases
run interleaved. `deadlines` samples with deadlines from the time of one code to the time of all
codes. It can run beside a number of busy processes.

The benchmarks stand in the folder `benchmarks` of the repository. The command needs an editable
install from a clone.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from jsonargparse import Namespace

from anytime_ar.cli.options import add_device, add_json, add_precision, add_threads
from anytime_ar.cli.parser import Parser, literal_path
from anytime_ar.errors import InputError

_ROOT = Path(__file__).parents[3]
"""Root folder of the repository, if the package is installed from a clone as editable."""


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime bench`."""
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("what", nargs="?", default="speed", choices=["speed", "deadlines"])
    parser.add_argument(
        "--batch-sizes",
        type=list[int],
        default=[1, 16, 64, 256],
        help="samples drawn together, for speed",
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each, for speed")
    parser.add_argument(
        "-n", "--num-samples", type=int, default=1, help="samples drawn together, for deadlines"
    )
    parser.add_argument("--draws", type=int, default=1000, help="at each of 8 deadlines")
    parser.add_argument("--busy-processes", type=int, default=0, help="that compete for the CPU")
    add_threads(parser)
    parser.add_argument("--out", type=literal_path, help="folder for JSON and plot")
    add_precision(parser)
    add_device(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    """Run the benchmark of the repository.

    Raises:
        InputError: the package is not installed from a clone as editable.
    """
    folder = _ROOT / "benchmarks"
    if not ((_ROOT / "pyproject.toml").is_file() and (folder / "bench.py").is_file()):
        raise InputError(
            f"the benchmarks are not part of the installed package in {Path(__file__).parents[1]}; "
            "in a clone of the anytime-ar repository, run pip install -e . and then anytime bench"
        )
    sys.path.insert(0, str(folder))  # the benchmarks import each other, also in child processes
    try:
        import_module("bench").run(arguments)
    finally:
        sys.path.remove(str(folder))
