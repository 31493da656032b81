"""Time a model on this machine: codes per second (`speed`), or missed deadlines (`deadlines`).

`speed` times all precisions and backends, and the bare matrix products of the same weights (the
floor). It also times `generate` of Hugging Face transformers on a Llama of the same size. All cases
run interleaved. `deadlines` samples with deadlines from the time of one code to the time of all
codes. It can run beside a number of busy processes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnProcess
from typing import Any, get_args

import torch
from jsonargparse import Namespace

from anytime_ar.cli.options import (
    add_device,
    add_json,
    add_precision,
    add_threads,
    progress_bar,
    set_threads_from,
)
from anytime_ar.cli.parser import Parser, literal_path
from anytime_ar.errors import InputError, MissingExtraError, require_extras
from anytime_ar.evaluation.deadlines import DeadlineResult, measure_deadlines
from anytime_ar.evaluation.previews import time_first_preview
from anytime_ar.evaluation.speed import (
    FLOOR_SUFFIX,
    BenchmarkCase,
    BenchmarkTiming,
    hf_generate_case,
    matmul_floor_case,
    plot_times,
    prefix_case,
    sample_codes_case,
    time_interleaved,
    time_ratios,
)
from anytime_ar.kernel import BuildError, cpu_name, load_kernel
from anytime_ar.prior import Precision
from anytime_ar.runtime.files import check_output_path, write_bytes, write_json
from anytime_ar.sampling import AnytimeModel, load

_MIN_TIMING_S = 3.0
"""Minimum time per measurement, in seconds: a few rounds of short runs are too noisy."""
_PREVIEW_ROUNDS = 100
"""Number of first previews to time for each batch size."""


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
    with _busy_processes(arguments.busy_processes):
        figures, text = (_speed if arguments.what == "speed" else _deadlines)(arguments)
    figures = {"model": arguments.model, "machine": _machine(), **figures}
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out / f"{arguments.what}.json", figures)
    print(json.dumps(figures, allow_nan=False) if arguments.json else text)


def _speed(arguments: Namespace) -> tuple[dict[str, Any], str]:
    models = list(_models(arguments))
    length = models[0].code_length
    baselines, missing = _baselines(models[0])
    cases = [*map(sample_codes_case, models), *map(matmul_floor_case, models), *baselines]
    with progress_bar("speed") as progress:
        timings = time_interleaved(
            cases, arguments.batch_sizes, rounds=arguments.rounds, progress=progress
        )
    steps = sorted({max(1, round(length * fifth / 5)) for fifth in range(1, 6)})
    with progress_bar("time by codes") as progress:
        by_codes = time_interleaved(
            [prefix_case(models[0], k) for k in steps],
            [n for n in arguments.batch_sizes if n in (arguments.batch_sizes[0], 64)],
            rounds=arguments.rounds,
            min_time_s=_MIN_TIMING_S,
            progress=progress,
        )
    firsts = [
        time_first_preview(models[0], n, rounds=_PREVIEW_ROUNDS) for n in arguments.batch_sizes
    ]
    if arguments.out is not None:
        plot = plot_times(by_codes)
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_bytes(arguments.out / "speed.png", plot)
    figures = {
        "code_length": length,
        "timings": [timing.to_json(length) for timing in timings],
        "by_codes": [
            {"codes": timing.name, "batch_size": timing.batch_size, "seconds": timing.seconds}
            for timing in by_codes
        ],
        "first_previews": [
            {
                "batch_size": first.batch_size,
                "seconds": first.seconds,
                "step_and_decode": bare.seconds,
            }
            for first, bare in firsts
        ],
    }
    lines = [
        speed_table(timings, length),
        "",
        _time_ratio_lines(by_codes),
        *map(_first_preview_line, firsts),
    ]
    return figures, "\n".join([*lines, *missing])


def _models(arguments: Namespace) -> Iterator[AnytimeModel]:
    """Yield the model in every precision on every available backend."""
    for backend in ("native", "portable"):
        for precision in get_args(Precision):
            model = load(
                arguments.model, device=arguments.device, precision=precision, backend=backend
            )
            try:
                model.sampler  # noqa: B018  (created at first use)
            except InputError:  # no compiler, or int8 on a GPU: nothing to time
                continue
            yield model


def _baselines(model: AnytimeModel) -> tuple[list[BenchmarkCase], list[str]]:
    """Return the baselines of Hugging Face, and a line that says why there are none."""
    try:
        return [
            hf_generate_case(model, precision, attention)
            for precision in ("float32", "bfloat16")
            for attention in ("sdpa", "eager")
        ], []
    except MissingExtraError as error:
        return [], [str(error)]


def speed_table(timings: list[BenchmarkTiming], length: int) -> str:
    """Return a table of codes per second with the spread over rounds.

    Args:
        timings: timings of all cases at all batch sizes.
        length: code length, the number of codes per sample.
    """
    lines = [
        f"{'rows':>4}  {'way':<32}{'codes/s':>8}{'slowest..fastest':>18}{'floor':>7}{'generate':>9}"
    ]
    for rows in dict.fromkeys(timing.batch_size for timing in timings):
        here = [timing for timing in timings if timing.batch_size == rows]
        baselines = [timing for timing in here if timing.name.startswith("generate")]
        baseline = min(baselines, key=_median, default=None)
        for timing in here:
            slowest, middle, fastest = timing.to_json(length)["codes_per_s"]
            share = times = ""
            if timing not in baselines and not timing.name.endswith(FLOOR_SUFFIX):
                precision = timing.name.split()[0]
                floors = [
                    t for t in here if t.name.startswith(precision) and FLOOR_SUFFIX in t.name
                ]
                share = f"{100 * time_ratios(min(floors, key=_median), timing)[1]:.0f} %"
                times = f"{time_ratios(baseline, timing)[1]:.2f}x" if baseline else ""
            spread = f"{slowest:,.0f}..{fastest:,.0f}"
            lines.append(
                f"{rows:>4}  {timing.name:<32}{middle:>8,.0f}{spread:>18}{share:>7}{times:>9}"
            )
    lines.append("floor: time of the bare matrix products, by the faster backend, as a share;")
    lines.append("generate: speed as a multiple of the fastest `generate`")
    return "\n".join(line.rstrip() for line in lines)


def _median(timing: BenchmarkTiming) -> float:
    """Return the median time of a case, in seconds."""
    return timing.median_s


def _time_ratio_lines(by_codes: list[BenchmarkTiming]) -> str:
    """Return how time grows from a fifth of the codes to all: ideally five times."""
    lines = []
    for rows in dict.fromkeys(timing.batch_size for timing in by_codes):
        few, *_, many = [timing for timing in by_codes if timing.batch_size == rows]
        least, middle, most = time_ratios(many, few)
        lines.append(
            f"{rows} rows: {many.name} take {middle:.2f} ({least:.2f}..{most:.2f}) times as long "
            f"as {few.name}"
        )
    return "\n".join(lines)


def _first_preview_line(pair: tuple[BenchmarkTiming, BenchmarkTiming]) -> str:
    """Return the time of the first preview, beside one step and one decode."""
    first, bare = pair
    rows = f"{first.batch_size} row{'' if first.batch_size == 1 else 's'}"
    times = time_ratios(first, bare)[1]
    return (
        f"{rows}: first preview after {1000 * first.median_s:.2f} ms, {times:.2f} times one step "
        "and one decode"
    )


def _deadlines(arguments: Namespace) -> tuple[dict[str, Any], str]:
    model = load(arguments.model, device=arguments.device, precision=arguments.precision)
    with progress_bar("deadlines") as progress:
        records = measure_deadlines(
            model, n=arguments.num_samples, draws=arguments.draws, progress=progress
        )
    figures = {
        "batch_size": arguments.num_samples,
        "precision": arguments.precision,
        "busy_processes": arguments.busy_processes,
        "deadlines": [record.to_json() for record in records],
    }
    return figures, deadline_table(records)


def deadline_table(records: list[DeadlineResult]) -> str:
    """Return a table of missed deadlines, finish fractions and numbers of codes."""
    lines = [
        f"{'deadline':>9}{'draws':>7}{'missed':>8}{'p50':>8}{'p99':>8}{'max':>8}"
        f"{'codes':>8}{'affordable':>12}{'used':>8}",
        f"{'ms':>9}{'':>15}{'finished at % of deadline':>24}",
    ]
    for record in records:
        p50, p99, most = (100 * record.quantile(share) for share in (0.5, 0.99, 1.0))
        row = record.to_json()
        lines.append(
            f"{1000 * record.deadline_s:>9.2f}{row['draws']:>7}{row['misses']:>8}"
            f"{p50:>8.1f}{p99:>8.1f}{most:>8.1f}{row['codes']:>8.1f}"
            f"{row['affordable_codes']:>12.1f}{100 * record.utilisation:>6.0f} %"
        )
    return "\n".join(lines)


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


@contextmanager
def _busy_processes(count: int) -> Iterator[list[SpawnProcess]]:
    """Start processes that keep one core busy each, and end them after the block."""
    context = multiprocessing.get_context("spawn")
    mine = (os.getpid(),)
    processes = [
        context.Process(target=_keep_core_busy, args=mine, daemon=True) for _ in range(count)
    ]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _keep_core_busy(parent: int) -> None:
    """Keep a core busy until the parent process has ended, however it ended."""
    while os.getppid() == parent:
        pass
