"""Time a model on this machine: codes a second (speed), or whether deadlines are kept (deadlines).

`speed` lets every precision of ours, the bare matrix products of the same weights (the floor), and
`generate` of Hugging Face transformers on a Llama of the same size take turns. `deadlines` draws
again and again with deadlines from the time of one code to that of all, beside as many busy
processes as are asked for.
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
    use_threads,
)
from anytime_ar.cli.parser import Parser, to_path
from anytime_ar.errors import InputError, MissingExtraError
from anytime_ar.evaluation.deadlines import DeadlineRecord, measure_deadlines
from anytime_ar.evaluation.previews import first_preview
from anytime_ar.evaluation.speed import (
    FLOOR,
    Contender,
    Timing,
    draw_times,
    floor,
    generate,
    ours,
    ratios,
    shorter,
    take_turns,
)
from anytime_ar.files import check_output, write_bytes, write_json
from anytime_ar.kernel import BuildError, load_kernel, processor_name
from anytime_ar.prior import Precision
from anytime_ar.sampling import AnytimeModel, load

_SECONDS = 3.0
"""Draws of few codes and rows take too little time for a few rounds to tell."""
_PREVIEWS = 100
"""First previews to time for each number of rows."""


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("what", nargs="?", default="speed", choices=["speed", "deadlines"])
    parser.add_argument("--batches", type=list[int], default=[1, 16, 64, 256], help="for speed")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each, for speed")
    parser.add_argument("-n", type=int, default=1, help="samples of a draw, for deadlines")
    parser.add_argument("--draws", type=int, default=1000, help="at each of 8 deadlines")
    parser.add_argument("--neighbours", type=int, default=0, help="busy processes beside it")
    add_threads(parser)
    parser.add_argument("--out", type=to_path, help="folder for JSON and plot")
    add_precision(parser)
    add_device(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    if not arguments.batches or min(arguments.batches) < 1:
        raise InputError(f"--batches {arguments.batches}: pass rows of 1 and more, as [1,16]")
    if arguments.out is not None:
        check_output(arguments.out, is_folder=True)
    use_threads(arguments)
    with suppress(BuildError):  # without a kernel there is less to time; a wrong variable is told
        load_kernel()
    with _busy(arguments.neighbours):
        figures, text = (_speed if arguments.what == "speed" else _deadlines)(arguments)
    figures = {"model": arguments.model, "machine": _machine(), **figures}
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out / f"{arguments.what}.json", figures)
    print(json.dumps(figures, allow_nan=False) if arguments.json else text)


def _speed(arguments: Namespace) -> tuple[dict[str, Any], str]:
    models = list(_models(arguments))
    length = models[0].code_length
    rivals, missing = _rivals(models[0])
    contenders = [*map(ours, models), *map(floor, models), *rivals]
    with progress_bar("speed") as progress:
        timings = take_turns(
            contenders, arguments.batches, rounds=arguments.rounds, progress=progress
        )
    steps = sorted({max(1, round(length * fifth / 5)) for fifth in range(1, 6)})
    with progress_bar("time by codes") as progress:
        by_codes = take_turns(
            [shorter(models[0], k) for k in steps],
            [n for n in arguments.batches if n in (arguments.batches[0], 64)],
            rounds=arguments.rounds,
            at_least_s=_SECONDS,
            progress=progress,
        )
    firsts = [first_preview(models[0], n, rounds=_PREVIEWS) for n in arguments.batches]
    if arguments.out is not None:
        picture = draw_times(by_codes)
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_bytes(arguments.out / "speed.png", picture)
    figures = {
        "code_length": length,
        "timings": [timing.to_json(length) for timing in timings],
        "by_codes": [
            {"codes": timing.name, "rows": timing.rows, "seconds": timing.seconds}
            for timing in by_codes
        ],
        "first_previews": [
            {"rows": first.rows, "seconds": first.seconds, "step_and_decode": bare.seconds}
            for first, bare in firsts
        ],
    }
    lines = [speed_table(timings, length), "", _growth(by_codes), *map(_first_line, firsts)]
    return figures, "\n".join([*lines, *missing])


def _models(arguments: Namespace) -> Iterator[AnytimeModel]:
    """The model in every precision, drawn from by every backend that there is."""
    for backend in ("native", "portable"):
        for precision in get_args(Precision):
            model = load(
                arguments.model, device=arguments.device, precision=precision, backend=backend
            )
            try:
                model.engine  # noqa: B018  (made at the first use)
            except InputError:  # no compiler, or int8 on a GPU: nothing to time
                continue
            yield model


def _rivals(model: AnytimeModel) -> tuple[list[Contender], list[str]]:
    """Other ways of drawing, and a line that says why there are none."""
    try:
        return [
            generate(model, precision, attention)
            for precision in ("float32", "bfloat16")
            for attention in ("sdpa", "eager")
        ], []
    except MissingExtraError as error:
        return [], [str(error)]


def speed_table(timings: list[Timing], length: int) -> str:
    """Codes a second of everything that was timed, with the spread over rounds."""
    lines = [
        f"{'rows':>4}  {'way':<32}{'codes/s':>8}{'slowest..fastest':>18}{'floor':>7}{'generate':>9}"
    ]
    for rows in dict.fromkeys(timing.rows for timing in timings):
        here = [timing for timing in timings if timing.rows == rows]
        rivals = [timing for timing in here if timing.name.startswith("generate")]
        rival = min(rivals, key=_median, default=None)
        for timing in here:
            slowest, middle, fastest = timing.to_json(length)["codes_per_s"]
            share = times = ""
            if timing not in rivals and not timing.name.endswith(FLOOR):
                precision = timing.name.split()[0]
                floors = [t for t in here if t.name.startswith(precision) and FLOOR in t.name]
                share = f"{100 * ratios(min(floors, key=_median), timing)[1]:.0f} %"
                times = f"{ratios(rival, timing)[1]:.2f}x" if rival else ""
            spread = f"{slowest:,.0f}..{fastest:,.0f}"
            lines.append(
                f"{rows:>4}  {timing.name:<32}{middle:>8,.0f}{spread:>18}{share:>7}{times:>9}"
            )
    lines.append("floor: time of the bare matrix products, by the faster backend, as a share;")
    lines.append("generate: speed as a multiple of the fastest `generate`")
    return "\n".join(line.rstrip() for line in lines)


def _median(timing: Timing) -> float:
    return timing.median_s


def _growth(by_codes: list[Timing]) -> str:
    """How time grows with codes: ideally by five from a fifth of them to all."""
    lines = []
    for rows in dict.fromkeys(timing.rows for timing in by_codes):
        few, *_, many = [timing for timing in by_codes if timing.rows == rows]
        least, middle, most = ratios(many, few)
        lines.append(
            f"{rows} rows: {many.name} take {middle:.2f} ({least:.2f}..{most:.2f}) times as long "
            f"as {few.name}"
        )
    return "\n".join(lines)


def _first_line(pair: tuple[Timing, Timing]) -> str:
    first, bare = pair
    rows = f"{first.rows} row{'' if first.rows == 1 else 's'}"
    times = ratios(first, bare)[1]
    return (
        f"{rows}: first preview after {1000 * first.median_s:.2f} ms, {times:.2f} times one step "
        "and one decode"
    )


def _deadlines(arguments: Namespace) -> tuple[dict[str, Any], str]:
    model = load(arguments.model, device=arguments.device, precision=arguments.precision)
    with progress_bar("deadlines") as progress:
        records = measure_deadlines(model, n=arguments.n, draws=arguments.draws, progress=progress)
    figures = {
        "rows": arguments.n,
        "precision": arguments.precision,
        "neighbours": arguments.neighbours,
        "deadlines": [record.to_json() for record in records],
    }
    return figures, deadline_table(records)


def deadline_table(records: list[DeadlineRecord]) -> str:
    """Misses, finishing times and codes of every deadline."""
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
            f"{row['affordable_codes']:>12.1f}{100 * record.used:>6.0f} %"
        )
    return "\n".join(lines)


def _machine() -> dict[str, Any]:
    try:
        instructions = load_kernel().instructions
    except BuildError:
        instructions = None
    return {
        "processor": processor_name(),
        "kernel_instructions": instructions,
        "torch_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@contextmanager
def _busy(count: int) -> Iterator[list[SpawnProcess]]:
    """Neighbours that keep a core busy each."""
    context = multiprocessing.get_context("spawn")
    mine = (os.getpid(),)
    neighbours = [context.Process(target=_spin, args=mine, daemon=True) for _ in range(count)]
    for neighbour in neighbours:
        neighbour.start()
    try:
        yield neighbours
    finally:
        for neighbour in neighbours:
            neighbour.terminate()
            neighbour.join()


def _spin(parent: int) -> None:
    """Keep a core busy until the process that asked for it is gone, however it ended."""
    while os.getppid() == parent:
        pass
