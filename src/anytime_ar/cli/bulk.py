"""Bulk jobs, which write many samples, or the codes of a whole data set, as shards."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from types import FrameType
from typing import Any, get_args

from jsonargparse import Namespace

from anytime_ar.bulk import (
    BulkJob,
    EngineName,
    RayPoolConfig,
    ShardingConfig,
    encode_job,
    run,
    sample_job,
)
from anytime_ar.bulk.jobs import Device, SavedContent, SplitName
from anytime_ar.cli.options import (
    add_precision,
    add_run_options,
    add_sampling_options,
    model_data_config,
    parse_label,
    print_result,
    progress_bar,
    sampling_kwargs_from,
    set_threads_from,
    tune_threads_without_kernel,
)
from anytime_ar.cli.parser import Parser, literal_text, read_config
from anytime_ar.errors import InputError
from anytime_ar.runtime.signals import Terminated
from anytime_ar.runtime.threads import check_threads
from anytime_ar.sampling import load

_RESUME = "The same command resumes an interrupted job. `--engine ray` writes on many processes."


@dataclass(frozen=True)
class Subcommand:
    """A command of two words, such as `bulk sample`."""

    add_arguments: Callable[[Parser], None]
    """Adds the options of the command to its parser."""
    run: Callable[[Namespace], None]
    """Runs the command with its parsed arguments."""
    description: str
    """Text at the top of its help."""


def add_sample_arguments(parser: Parser) -> None:
    """Add the options of `anytime bulk sample`."""
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("-n", "--num-samples", type=int, required=True, help="number of samples")
    parser.add_argument("--codes", type=int | None, help="codes per sample; default: all")
    parser.add_argument(
        "--quality", type=float | None, help="share of full quality, by the measured curve"
    )
    add_sampling_options(parser)
    parser.add_argument(
        "--fixed-codes", type=list[int] | None, help="codes of all samples, as [3,-1,7]; -1: drawn"
    )
    parser.add_argument("--class-balanced", action="store_true", help="as many of each class")
    parser.add_argument(
        "--save", default="both", choices=get_args(SavedContent), help="contents of the shards"
    )
    add_precision(parser)
    _add_job_options(parser)


def add_encode_arguments(parser: Parser) -> None:
    """Add the options of `anytime bulk encode`."""
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("--data", type=literal_text, help="data set; default: the model's own")
    parser.add_argument(
        "--split", default="train", choices=get_args(SplitName), help="split to encode"
    )
    _add_job_options(parser)


def _add_job_options(parser: Parser) -> None:
    """Add the options that all bulk jobs share."""
    parser.add_argument(
        "-o",
        "--out",
        type=literal_text,
        required=True,
        help="folder of this job alone, or a URL such as s3://bucket/folder",
    )
    parser.add_argument(
        "--engine",
        default="local",
        choices=get_args(EngineName),
        help="local: this process; ray: many processes, on the cluster of RAY_ADDRESS or here",
    )
    parser.add_class_arguments(ShardingConfig, as_group=False)
    parser.add_class_arguments(RayPoolConfig, as_group=False, skip={"threads"})
    parser.add_argument(
        "--verify", action="store_true", help="compare complete shards with their SHA-256"
    )
    add_run_options(parser, "one for each processor that may be used; with Ray, 1")


def run_sample(arguments: Namespace) -> None:
    """Run a bulk job that writes shards of samples."""
    device, here = _devices(arguments)
    model = load(arguments.model, device=here, precision=arguments.precision)
    label: Any = parse_label(model, arguments.label)
    if arguments.class_balanced:
        if label is not None or model.labels is None:
            why = f"label {label!r} was given" if model.labels else "this model has no labels"
            raise InputError(f"--class-balanced, but {why}; leave one out")
        label = range(len(model.labels))
    job = sample_job(
        arguments.model,
        model,
        arguments.num_samples,
        seed=arguments.seed,
        codes=arguments.codes,
        quality=arguments.quality,
        label=label,
        conditions=arguments.conditions,
        fixed_codes=arguments.fixed_codes,
        save=arguments.save,
        sharding=read_config(ShardingConfig, arguments),
        device=device,
        **sampling_kwargs_from(arguments),
    )
    _run_job(job, arguments)


def run_encode(arguments: Namespace) -> None:
    """Run a bulk job that encodes a data set into shards of codes."""
    device, here = _devices(arguments)
    model = load(arguments.model, device=here)
    job = encode_job(
        arguments.model,
        model,
        model_data_config(model, arguments.model, arguments.data),
        split=arguments.split,
        sharding=read_config(ShardingConfig, arguments),
        device=device,
    )
    _run_job(job, arguments)


def _devices(arguments: Namespace) -> tuple[Device | None, str]:
    """Return the device of the workers and that of this process.

    With Ray this process only prepares the job and needs no GPU.
    """
    ray = arguments.engine == "ray"
    if not ray:
        set_threads_from(arguments)
        tune_threads_without_kernel(arguments)
    return (arguments.device, "cpu") if ray else (None, arguments.device)


def _ray_pool_config(arguments: Namespace) -> RayPoolConfig:
    """Return the configuration of the Ray workers.

    Only Ray workers take their threads from it. The threads of this process are set already.
    """
    given = {"workers": arguments.workers}
    if arguments.engine == "ray" and arguments.threads is not None:
        given["threads"] = check_threads(arguments.threads)
    return RayPoolConfig(**given)


def _run_job(job: BulkJob, arguments: Namespace) -> None:
    """Run a bulk job and print its report."""
    out: str = arguments.out
    # Ray reports dead workers on standard output, which is for figures.
    with redirect_stdout(sys.stderr), _raise_on_signals() as signals, progress_bar(job.kind) as bar:

        def progress(done: int, total: int, what: str) -> None:
            bar(done, total, what)
            if signals:
                raise KeyboardInterrupt

        report = run(
            job,
            out,
            engine=arguments.engine,
            pool=_ray_pool_config(arguments),
            verify=arguments.verify,
            progress=progress,
        )
    job, seed = report.job, getattr(report.job, "seed", None)
    shards = f"{job.num_shards} shard{'' if job.num_shards == 1 else 's'}"
    text = f"{out}: {job.samples} samples in {shards}"
    text += "" if seed is None else f", seed {seed}"
    if report.new_samples == 0:
        text += "; it was complete"
    else:
        text += (
            f"; made {report.new_samples} in {report.elapsed_s:.1f} s, "
            f"{report.samples_per_s:.0f} a second; a worker makes "
            f"{report.samples_per_worker_s:.0f} samples, "
            f"{report.codes_per_worker_s:.0f} codes a second"
        )
    print_result(
        arguments,
        text,
        out=out,
        samples=job.samples,
        shards=job.num_shards,
        new_samples=report.new_samples,
        seconds=round(report.elapsed_s, 4),
        samples_per_s=round(report.samples_per_s, 1),
        samples_per_worker_s=round(report.samples_per_worker_s, 1),
        codes_per_worker_s=round(report.codes_per_worker_s, 1),
        **({} if seed is None else {"seed": seed}),
    )


@contextmanager
def _raise_on_signals() -> Iterator[list[int]]:
    """Raise on Ctrl-C and SIGTERM, and yield the list of signals received so far.

    Python drops exceptions in destructors, such as those of pyarrow files. A job that checks the
    list ends even if its interrupt was dropped.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        Terminated: SIGTERM, which raises KeyboardInterrupt inside of the block.
    """
    signals: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        signal.default_int_handler(number, frame)

    numbers = (signal.SIGINT, signal.SIGTERM)
    # A background job that ignores Ctrl-C continues to ignore it.
    usual = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    for number in usual:
        signal.signal(number, interrupt)
    try:
        yield signals
    except KeyboardInterrupt as error:
        if signals[:1] == [signal.SIGTERM]:
            raise Terminated(str(error) or "interrupted") from error
        raise
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


SUBCOMMANDS: Mapping[str, Subcommand] = {
    "sample": Subcommand(
        add_sample_arguments,
        run_sample,
        f"Draw many samples and write them as shards, to a folder or a bucket. {_RESUME}",
    ),
    "encode": Subcommand(
        add_encode_arguments,
        run_encode,
        f"Encode a data set and write its codes as shards, to a folder or a bucket. {_RESUME}",
    ),
}
"""Commands of this module, by their second word."""
