"""Draw samples from a model: by codes, by seconds, by quality, or until Ctrl-C.

Images are written as one grid. One audio clip becomes `samples.wav`; several become `samples/0.wav`
and so on, with their spectrograms in `samples.png`. Several numbers of codes, as in
`--codes "[1,2,4,8]"`, give a row per sample and a column per number, and for audio a file each.
Ctrl-C stops sampling and writes the samples with the codes drawn so far. For millions of samples
see `anytime bulk sample`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from anytime_ar.cli.options import (
    add_budget_options,
    add_candidates,
    add_output_options,
    add_sampling_options,
    budget_from,
    candidates_from,
    check_columns,
    print_result,
    sampling_options_from,
    set_threads_from,
    tune_threads_without_kernel,
)
from anytime_ar.cli.parser import Parser
from anytime_ar.cli.sample_files import SampleFiles, WrittenFiles
from anytime_ar.errors import InputError, plural
from anytime_ar.kernel import cpu_name, load_kernel
from anytime_ar.runtime.files import check_output_path
from anytime_ar.runtime.signals import defer_interrupts
from anytime_ar.sampling import AnytimeModel, SampleKwargs, SampleResult, load


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime sample`."""
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("-n", "--num-samples", type=int, default=16, help="number of samples")
    parser.add_argument(
        "--codes", type=int | list[int] | None, help="codes per sample, or a list; default: all"
    )
    parser.add_argument(
        "--seconds",
        type=float | None,
        help="length of sounds; default: one window",
    )
    add_budget_options(parser)
    add_sampling_options(parser)
    add_candidates(parser)
    parser.add_argument(
        "--fixed-codes",
        type=list[int] | list[list[int]] | None,
        help="codes of all samples, as [3,-1,7], or a list for each; -1: drawn",
    )
    add_output_options(parser)


def run(arguments: Namespace) -> None:
    """Generate samples and write them to files."""
    if arguments.save_state is not None:
        check_output_path(arguments.save_state)
    check_columns(arguments)
    requested = arguments.codes
    if isinstance(requested, list) and min(requested, default=0) < 1:
        raise InputError(f"--codes {requested}: pass numbers of 1 and more, as [4,8]")
    set_threads_from(arguments)
    model = load(arguments.model, device=arguments.device, precision=arguments.precision)
    files = SampleFiles(model)
    out = files.output_path(arguments.out, "samples")
    settings = sampling_options_from(model, arguments)
    if arguments.fixed_codes is not None:
        settings["fixed_codes"] = arguments.fixed_codes
    tune_threads_without_kernel(arguments)
    if arguments.seconds is not None:
        _sample_long(model, files, out, arguments, settings)
        return
    if arguments.deadline_s is not None and arguments.num_samples >= 1:
        model.warm_up(arguments.num_samples, guidance=settings.get("guidance"))
    # Create the sampler, and perhaps compile it, while Ctrl-C still ends the command at once.
    model.sampler  # noqa: B018
    with defer_interrupts() as interrupted:
        codes = max(requested) if isinstance(requested, list) else requested
        limits = budget_from(arguments, codes, cancel=interrupted)
        options: SampleKwargs = {**settings, **candidates_from(arguments), **limits}
        result = model.generate(arguments.num_samples, **options)
        columns = requested if isinstance(requested, list) else None
        written = write_samples(files, result, out, arguments, columns)
    min_deadline_s = None
    if arguments.deadline_s is not None:
        min_deadline_s = model.min_deadline_s(
            arguments.num_samples,
            min_codes=arguments.min_codes,
            guidance=settings.get("guidance"),
        )
    print_summary(
        model,
        result,
        written,
        arguments,
        seed=settings["seed"],
        min_deadline_s=min_deadline_s,
    )


def _sample_long(
    model: AnytimeModel, files: SampleFiles, out: Path, arguments: Namespace, settings: SampleKwargs
) -> None:
    """Generate sounds of any length, and write them to files.

    Raises:
        InputError: an option is for one window, or the model has no sounds of parts.
    """
    options: dict[str, Any] = {**settings, "codes": arguments.codes, "quality": arguments.quality}
    for option in ("deadline_s", "save_state"):
        if arguments[option] is not None:
            name = option.replace("_", "-")
            raise InputError(f"--{name} is for one window; drop it or --seconds")
    if isinstance(arguments.codes, list):
        raise InputError("--codes has several numbers, and --seconds takes one; pass one")
    begin = time.perf_counter()
    samples = model.sample_long(arguments.seconds, arguments.num_samples, **options)
    written = files.write(samples, out, arguments.columns)
    taken_s = time.perf_counter() - begin
    print_result(
        arguments,
        f"{written}: {plural(len(samples), 'sound')} of {arguments.seconds:g} s in "
        f"{taken_s:.2f} s, seed {settings['seed']}",
        **written.json_fields,
        samples=len(samples),
        seconds=round(taken_s, 4),
        length_s=arguments.seconds,
        seed=settings["seed"],
    )


def write_samples(
    files: SampleFiles,
    result: SampleResult,
    out: Path,
    arguments: Namespace,
    code_counts: list[int] | None = None,
) -> WrittenFiles:
    """Write the samples of a result, and its state if requested.

    Args:
        files: writes the files.
        result: the samples and their codes.
        out: file to write.
        arguments: parsed arguments with `save_state` and `columns`.
        code_counts: numbers of codes at which to write each sample; None: all that were drawn.
    """
    if arguments.save_state is not None:
        result.state.save(arguments.save_state)
    if code_counts is None:
        return files.write(result.data, out, arguments.columns)
    reached = [k for k in code_counts if k <= result.codes_drawn] or [result.codes_drawn]
    return files.write_budgets(result.codes, reached, out)


def print_summary(
    model: AnytimeModel,
    result: SampleResult,
    written: WrittenFiles,
    arguments: Namespace,
    *,
    seed: int | None = None,
    min_deadline_s: float | None = None,
) -> None:
    """Print what was generated, in how much time, why it ended early, and a missed deadline.

    As JSON, also what drew the samples.

    Args:
        model: the model that generated the samples.
        result: the samples and their codes.
        written: files that were written.
        arguments: parsed arguments with `json`.
        seed: seed of the samples; None: it is not printed.
        min_deadline_s: shortest deadline that is met reliably; None: it is not printed.
    """
    ended = {"deadline": ", ended by the deadline", "cancelled": ", interrupted"}
    n, drawn, late_s = len(result.data), result.codes_drawn, result.late_s
    missed = f"\nthe deadline was missed by {late_s:.4f} s" if late_s else ""
    if missed and min_deadline_s is not None:
        missed += f"; from {min_deadline_s:.4f} s on it is met reliably"
    deadline: dict[str, Any] = {}
    if late_s is not None:
        deadline = {"deadline_met": not late_s, "late_s": round(late_s, 4)}
    if min_deadline_s is not None:
        deadline["min_deadline_s"] = round(min_deadline_s, 4)
    print_result(
        arguments,
        f"{written}: {plural(n, 'sample')} of {drawn} of {model.code_length} codes "
        f"in {result.elapsed_s:.2f} s"
        + ended.get(result.stop_reason, "")
        + ("" if seed is None else f", seed {seed}")
        + missed,
        **written.json_fields,
        samples=n,
        codes=drawn,
        code_length=model.code_length,
        seconds=round(result.elapsed_s, 4),
        stop_reason=result.stop_reason,
        **deadline,
        **({} if seed is None else {"seed": seed}),
        **_describe_backend(model),
    )


def _describe_backend(model: AnytimeModel) -> dict[str, Any]:
    """Return what draws the codes of a model: device, backend, kernel, precision and threads."""
    kernel = load_kernel() if model.backend == "native" else None
    return {
        "device": str(model.device),
        "processor": cpu_name(),
        "backend": model.backend,
        "kernel": None if kernel is None else f"{kernel.instruction_set}, {kernel.origin}",
        "precision": model.precision,
        "threads": torch.get_num_threads(),
    }
