"""Show what anytime-ar uses on this machine, what is missing, and what would make it faster."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import textwrap
from functools import partial
from typing import Any, get_args

import torch
from jsonargparse import Namespace

from anytime_ar.cli.options import add_json, add_threads, print_result
from anytime_ar.cli.parser import Parser
from anytime_ar.errors import EXTRAS, InputError, install_command
from anytime_ar.kernel import (
    BuildError,
    available_instruction_sets,
    cpu_architecture,
    cpu_features,
    cpu_name,
    find_compiler,
    load_kernel,
    prebuilt_instruction_sets,
)
from anytime_ar.prior import Backend, Precision, PrecisionOption
from anytime_ar.runtime.files import cache_folder
from anytime_ar.runtime.threads import available_cpus, tune_threads
from anytime_ar.runtime.timing import BenchmarkCase, time_interleaved
from anytime_ar.sampling import AnytimeModel, load

ENVIRONMENT_VARIABLES = (
    *("ANYTIME_KERNEL", "ANYTIME_KERNEL_ISA", "CXX", "XDG_CACHE_HOME"),
    *("OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"),
)
"""Environment variables that change kernel, threads or cache on this machine."""
_MODEL = "mnist"
"""Shipped model whose speed is measured."""
_ROWS = (1, 64)
"""Batch sizes at which speed is measured."""
_ROUNDS = 2
"""Number of rounds of each measurement."""
_MIN_SPEEDUP = 1.1
"""Minimum speedup of another precision to be recommended."""


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime doctor`."""
    add_threads(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    """Collect the facts about this machine and print them with advice."""
    # Use the threads of other commands; with contended threads this would take minutes.
    tune_threads(arguments.threads, lambda message: print(f"anytime: {message}", file=sys.stderr))
    facts = {
        **_machine(),
        "kernel": _kernel(),
        "prebuilt": prebuilt_instruction_sets(),
        "cache": _cache(),
        "extras": _extras(),
        **_measure_speed(),
    }
    facts["advice"] = advice(facts)
    print_result(arguments, report(facts), **facts)


def _machine() -> dict[str, Any]:
    """Return the processor, its instruction sets, the threads, PyTorch and the compiler."""
    compiler = find_compiler()
    return {
        "processor": cpu_name(),
        "architecture": cpu_architecture(),
        "instruction_sets": [
            isa.name for isa in available_instruction_sets(cpu_architecture(), cpu_features())
        ],
        "cpus": available_cpus(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "compiler": None if compiler is None else compiler.version,
    }


def _kernel() -> dict[str, Any]:
    """Return the kernel in use, or why there is none, and the variables that select it."""
    settings = {name: os.environ[name] for name in ENVIRONMENT_VARIABLES if os.environ.get(name)}
    try:
        loaded = load_kernel()
    except (BuildError, InputError) as error:
        return {
            "instruction_set": None,
            "origin": None,
            "problem": str(error),
            "settings": settings,
        }
    return {
        "instruction_set": loaded.instruction_set,
        "origin": loaded.origin,
        "problem": None,
        "settings": settings,
    }


def _cache() -> dict[str, Any]:
    """Return the cache folder and whether it is writable."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            writable = True
    except OSError:
        writable = False
    return {"folder": str(folder), "writable": writable}


def _extras() -> dict[str, bool]:
    """Return whether each extra is installed."""
    return {
        name: all(importlib.util.find_spec(module) is not None for module in modules)
        for name, modules in EXTRAS.items()
    }


def _measure_speed() -> dict[str, Any]:
    """Return what `auto` selects, and codes per second of all backends and precisions."""
    models = []
    for backend in ("native", "portable"):
        for precision in get_args(Precision):
            model = load(_MODEL, device="cpu", precision=precision, backend=backend)
            try:
                model.sampler  # noqa: B018  (created at first use)
            except InputError:  # no kernel
                continue
            models.append(model)
    by_name = {f"{model.precision} {model.backend}": model for model in models}
    cases = [BenchmarkCase(name, partial(_sample_codes, model)) for name, model in by_name.items()]
    rates = [
        {
            "backend": by_name[timing.name].backend,
            "precision": by_name[timing.name].precision,
            "rows": timing.batch_size,
            "codes_per_s": round(timing.rate(models[0].code_length)),
        }
        for timing in time_interleaved(cases, _ROWS, rounds=_ROUNDS)
    ]
    auto_backend: Backend = "auto" if models[0].backend == "native" else "portable"
    precisions: tuple[PrecisionOption, ...] = ("float32", "auto")
    usual, fastest = (
        load(_MODEL, device="cpu", precision=each, backend=auto_backend) for each in precisions
    )
    chosen = {
        "backend": usual.backend,
        "precision": usual.precision,
        "precision_auto": fastest.precision,
    }
    return {"chosen": chosen, "rates": rates}


def _sample_codes(model: AnytimeModel, n: int) -> None:
    """Sample the codes of n samples."""
    model.sample_codes(n, seed=0)


def advice(facts: dict[str, Any]) -> list[str]:
    """Return what would make sampling faster, by the facts that `run` collects."""
    kernel, chosen = facts["kernel"], facts["chosen"]
    lines = []
    chosen_by = [name for name in ENVIRONMENT_VARIABLES[:2] if name in kernel["settings"]]
    if kernel["instruction_set"] is None and chosen_by:
        lines.append(
            f"The native kernel draws small batches several times faster. Unset or correct "
            f"{' and '.join(chosen_by)}; the problem is named above."
        )
    elif kernel["instruction_set"] is None:
        lines.append(
            "The native kernel draws small batches several times faster. Install a wheel with "
            "prebuilt kernels or a C++ compiler; the problem is named above."
        )
    elif (best := facts["instruction_sets"][-1]) != kernel["instruction_set"]:
        lines.append(
            f"ANYTIME_KERNEL_ISA is set, and this processor can do more: unset it for {best}."
        )
    if facts["threads"] < facts["cpus"]:
        lines.append(
            f"PyTorch uses {facts['threads']} of {facts['cpus']} CPUs; OMP_NUM_THREADS="
            f"{facts['cpus']} lets large batches use all."
        )
    if facts["threads"] > facts["cpus"]:
        lines.append(
            f"PyTorch has {facts['threads']} threads for {facts['cpus']} CPUs, which wait for one "
            f"another; set OMP_NUM_THREADS={facts['cpus']}."
        )
    if not facts["cache"]["writable"]:
        lines.append(
            "The cache folder cannot be written to, so every process measures this machine "
            "again and, without a prebuilt kernel, compiles one; set XDG_CACHE_HOME to a folder "
            "that can."
        )
    rates = {
        rate["precision"]: rate["codes_per_s"]
        for rate in facts["rates"]
        if rate["backend"] == chosen["backend"] and rate["rows"] == max(_ROWS)
    }
    fastest = max(rates, key=lambda precision: rates[precision])
    gain = rates[fastest] / rates[chosen["precision"]]
    if gain >= _MIN_SPEEDUP:
        lines.append(
            f'precision="{fastest}" drew {gain:.1f} times as many codes a second at '
            f"{max(_ROWS)} rows; now and then a code differs from {chosen['precision']}."
        )
    return lines


def report(facts: dict[str, Any]) -> str:
    """Return the facts as text of 80 columns."""
    kernel, cache, chosen = facts["kernel"], facts["cache"], facts["chosen"]
    used = f"{kernel['instruction_set']}, {kernel['origin']}"
    settings = ", ".join(f"{name}={value}" for name, value in kernel["settings"].items())
    lines = [
        _format_field("processor", f"{facts['processor']} ({facts['architecture']})"),
        _format_field(
            "instruction sets", ", ".join(facts["instruction_sets"]) or "none that is known"
        ),
        _format_field(
            "kernel", used if kernel["instruction_set"] else f"none: {kernel['problem']}"
        ),
        _format_field("set by variables", settings or "nothing"),
        _format_field(
            "prebuilt kernels", ", ".join(facts["prebuilt"]) or "none in this installation"
        ),
        _format_field("C++ compiler", facts["compiler"] or "none"),
        _format_field("torch", f"{facts['torch']}, capability {facts['torch_capability']}"),
        _format_field(
            "CPUs and threads", f"{facts['cpus']} CPUs, {facts['threads']} threads of PyTorch"
        ),
        _format_field(
            "cache folder", cache["folder"] + ("" if cache["writable"] else " (not writable)")
        ),
        _format_field("chosen for drawing", f"{chosen['backend']}, {chosen['precision']}"),
        _format_field("precision auto", chosen["precision_auto"]),
        "",
        "Optional extras",
    ]
    for name, installed in facts["extras"].items():
        status = "installed" if installed else _wrap_command(install_command(name))
        lines.append(f"  {name:<18}{status}")
    lines += ["", f"Codes a second ({_MODEL})"]
    lines.append(f"{'':20}" + "".join(f"{f'{n} row' + 's' * (n > 1):>12}" for n in _ROWS))
    rates = {(r["backend"], r["precision"], r["rows"]): r["codes_per_s"] for r in facts["rates"]}
    for backend, precision in dict.fromkeys(key[:2] for key in rates):
        figures = "".join(f"{rates[backend, precision, rows]:>12,}" for rows in _ROWS)
        lines.append(f"  {f'{backend} {precision}':<18}{figures}")
    lines += ["", "What would make it faster"]
    for text in facts["advice"] or ["Nothing that this command knows of."]:
        lines += textwrap.wrap(text, 78, initial_indent="- ", subsequent_indent="  ")
    return "\n".join(lines)


def _wrap_command(text: str) -> str:
    """Return a command on as many lines as it needs, as a shell reads them."""
    words = textwrap.wrap(text, 56, break_long_words=False, break_on_hyphens=False)
    return f" \\\n{'':22}".join(words)


def _format_field(name: str, value: str) -> str:
    """Return a name and its wrapped value side by side."""
    first, *rest = textwrap.wrap(value, 60, break_on_hyphens=False)
    return "\n".join([f"{name:<20}{first}", *(f"{'':20}{line}" for line in rest)])
