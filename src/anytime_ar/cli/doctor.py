"""Show what anytime-ar uses on this machine, what is missing, and what would make it faster."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
import tempfile
import textwrap
from functools import partial
from importlib.metadata import distribution
from typing import Any, get_args
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch
from jsonargparse import Namespace

from anytime_ar.cli.options import add_json, add_threads, print_result
from anytime_ar.cli.parser import Parser
from anytime_ar.errors import EXTRAS, InputError, install_command, plural
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
from anytime_ar.runtime.threads import (
    available_cpus,
    fastest_threads,
    omp_num_threads,
    set_threads,
    time_threads,
)
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
_ROUNDS = 3
"""Number of rounds of each measurement."""
_MIN_SPEEDUP = 1.1
"""Minimum speedup of another precision, or number of threads, to be recommended."""


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime doctor`."""
    add_threads(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    """Collect the facts about this machine and print them with advice."""
    timed = _set_threads(arguments.threads)
    extras = _extras()
    facts = {
        **_machine(),
        "threads_timed_ms": {str(n): round(1000 * seconds, 1) for n, seconds in timed.items()},
        "kernel": _kernel(),
        "prebuilt": prebuilt_instruction_sets(),
        "cache": _cache(),
        "extras": extras,
        "install_extras": _install_extras([name for name, there in extras.items() if not there]),
        **_measure_speed(),
    }
    facts["advice"] = advice(facts)
    print_result(arguments, report(facts), **facts)


def _set_threads(requested: int | None) -> dict[int, float]:
    """Set the number of threads as other commands do, and return the seconds of each one timed."""
    threads = set_threads(requested)
    timed = time_threads(sorted({threads, available_cpus(), 1}, reverse=True))
    explicit = requested is not None or omp_num_threads() is not None
    torch.set_num_threads(threads if explicit else fastest_threads(timed))
    return timed


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


def _install_extras(missing: list[str]) -> str | None:
    """Return the command that installs missing extras; None if there are none."""
    if not missing:
        return None
    source = json.loads(distribution("anytime-ar").read_text("direct_url.json") or "{}")
    if not source.get("dir_info", {}).get("editable"):  # a wheel may be gone: name the packages
        return install_command(*missing)
    clone = url2pathname(urlsplit(source["url"]).path)
    names = "all" if len(missing) == len(EXTRAS) else ",".join(missing)
    wanted = shlex.quote(f"{clone}[{names}]")
    return f"{shlex.quote(sys.executable)} -m pip install -e {wanted}"


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
            "rounds": len(timing.seconds),
            "spread": round((max(timing.seconds) - min(timing.seconds)) / (2 * timing.median_s), 3),
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
            f"{' and '.join(chosen_by)}: {kernel['problem']}."
        )
    elif kernel["instruction_set"] is None:
        lines.append(
            "The native kernel draws small batches several times faster. Install a wheel with "
            f"prebuilt kernels or a C++ compiler: {kernel['problem']}."
        )
    elif (best := facts["instruction_sets"][-1]) != kernel["instruction_set"]:
        lines.append(
            f"ANYTIME_KERNEL_ISA is set, and this processor can do more: unset it for {best}."
        )
    timed = {int(number): ms for number, ms in facts["threads_timed_ms"].items()}
    threads, best = facts["threads"], fastest_threads(timed)
    if timed[threads] >= _MIN_SPEEDUP * timed[best]:
        lines.append(
            f"PyTorch took {timed[threads]:.0f} ms with {plural(threads, 'thread')} and "
            f"{timed[best]:.0f} ms with {best}; OMP_NUM_THREADS={best} is faster at present."
        )
    if not facts["cache"]["writable"]:
        lines.append(
            f"The cache folder {facts['cache']['folder']} cannot be written to, so every process "
            "measures this machine again; set XDG_CACHE_HOME to a folder that can."
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
            f"{max(_ROWS)} rows (--precision {fastest} on the command line); now and then a code "
            f"differs from {chosen['precision']}."
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
            "CPUs and threads", f"{plural(facts['cpus'], 'CPU')}, {_describe_threads(facts)}"
        ),
        _format_field(
            "cache folder", cache["folder"] + ("" if cache["writable"] else " (not writable)")
        ),
        _format_field("default", f"draws by {chosen['backend']}, precision {chosen['precision']}"),
        _format_field("--precision auto", f"draws with precision {chosen['precision_auto']}"),
        "",
        "Extras",
    ]
    installed, missing = (
        [name for name, there in facts["extras"].items() if there is wanted]
        for wanted in (True, False)
    )
    lines.append(_format_field("  installed", ", ".join(installed) or "none"))
    if missing:
        lines.append(_format_field("  missing", ", ".join(missing)))
        lines.append(f"  {'to install them':<18}{_wrap_command(facts['install_extras'])}")
    rounds = max(rate["rounds"] for rate in facts["rates"])
    lines += ["", f"Codes a second ({_MODEL}; median of {rounds} rounds ± half their range)"]
    lines.append(f"{'':20}" + "".join(f"{plural(n, 'row'):>19}" for n in _ROWS))
    rates = {(r["backend"], r["precision"], r["rows"]): r for r in facts["rates"]}
    for backend, precision in dict.fromkeys(key[:2] for key in rates):
        figures = "".join(_format_rate(rates[backend, precision, rows]) for rows in _ROWS)
        lines.append(f"  {f'{backend} {precision}':<18}{figures}")
    lines += ["", "What would make it faster"]
    for text in facts["advice"] or ["Nothing that this command knows of."]:
        lines += textwrap.wrap(text, 78, initial_indent="- ", subsequent_indent="  ")
    return "\n".join(lines)


def _describe_threads(facts: dict[str, Any]) -> str:
    """Return the number of threads and the times of all numbers that were timed."""
    text = f"{plural(facts['threads'], 'thread')} of PyTorch"
    timed = [f"{ms:.0f} ms with {number}" for number, ms in facts["threads_timed_ms"].items()]
    return text if len(timed) < 2 else f"{text} (timed: {', '.join(timed)})"


def _format_rate(rate: dict[str, Any]) -> str:
    """Return codes per second and their spread, 19 columns wide."""
    spread = f"± {100 * rate['spread']:.0f} %"
    return f"{rate['codes_per_s']:>11,} {spread:>7}"


def _wrap_command(text: str) -> str:
    """Return a command on as many lines as it needs, as a shell reads them."""
    words = textwrap.wrap(text, 56, break_long_words=False, break_on_hyphens=False)
    return f" \\\n{'':22}".join(words)


def _format_field(name: str, value: str) -> str:
    """Return a name and its wrapped value side by side."""
    first, *rest = textwrap.wrap(value, 60, break_on_hyphens=False)
    return "\n".join([f"{name:<20}{first}", *(f"{'':20}{line}" for line in rest)])
