"""Time a model on this machine: codes per second (`speed`), or missed deadlines (`deadlines`).

    python benchmarks/bench.py mnist --threads 1
    python benchmarks/bench.py runs/mine deadlines --busy-processes 1

`anytime bench` is the same command.
"""

from __future__ import annotations

import json
import platform
import sys
from contextlib import suppress
from typing import Any

import torch
from busy_processes import busy_processes
from deadlines import run_deadlines
from jsonargparse import Namespace
from speed import run_speed

from anytime_ar.cli import main
from anytime_ar.cli.options import set_threads_from
from anytime_ar.errors import InputError, require_extras
from anytime_ar.kernel import BuildError, cpu_name, load_kernel
from anytime_ar.runtime.files import check_output_path, write_json


def run(arguments: Namespace) -> None:
    """Run the benchmark, print its table and write its figures."""
    sizes = arguments.batch_sizes
    if not sizes or min(sizes) < 1:
        raise InputError(f"--batch-sizes {sizes}: pass numbers of 1 and more, as [1,16]")
    if arguments.out is not None:
        check_output_path(arguments.out, is_folder=True)
        if arguments.what == "speed":  # before anything is timed
            require_extras("a plot", "bench", module="matplotlib")
    set_threads_from(arguments)
    with suppress(BuildError):  # without a kernel there is less to time; other errors are raised
        load_kernel()
    with busy_processes(arguments.busy_processes):
        figures, text = (run_speed if arguments.what == "speed" else run_deadlines)(arguments)
    figures = {"model": arguments.model, "machine": _machine(), **figures}
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out / f"{arguments.what}.json", figures)
    print(json.dumps(figures, allow_nan=False) if arguments.json else text)


def _machine() -> dict[str, Any]:
    """Return the processor, instruction sets, threads and versions of this machine."""
    try:
        instructions = load_kernel().instruction_set
    except BuildError:
        instructions = None
    return {
        "processor": cpu_name(),
        "kernel_instructions": instructions,
        "torch_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.argv.insert(1, "bench")
    main()
