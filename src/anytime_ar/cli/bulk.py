"""Bulk jobs of `sample` and `encode`, which write many samples or a whole data set as shards."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
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
    model_data_config,
    parse_label,
    print_result,
    progress_bar,
    sampling_kwargs_from,
    set_threads_from,
)
from anytime_ar.cli.parser import Parser, literal_text, read_config
from anytime_ar.errors import InputError
from anytime_ar.runtime.threads import check_threads
from anytime_ar.sampling import load

_BULK: dict[str, Any] = {
    **ShardingConfig().model_dump(),
    "workers": None,
    "verify": False,
    "keep": "both",
    "labels_in_turn": False,
    "split": "train",
}
"""Options for bulk jobs only, with their defaults."""
_SINGLE = {"deadline_s": None, "save_state": None, "columns": None, "min_codes": 1}
"""Options for single runs only, with their defaults."""


def add_job_options(parser: Parser) -> None:
    """Add `--engine` and the options of bulk jobs."""
    parser.add_argument(
        "--engine",
        choices=get_args(EngineName),
        help="write shards into the folder or URL --out: local, here; ray, on many processes",
    )
    parser.add_class_arguments(ShardingConfig, as_group=False)
    parser.add_class_arguments(RayPoolConfig, as_group=False, skip={"threads"})
    parser.add_argument(
        "--verify", action="store_true", help="compare earlier shards with their SHA-256"
    )


def add_sample_options(parser: Parser) -> None:
    """Add the options that say what a sampling job writes."""
    parser.add_argument("--keep", default="both", choices=get_args(SavedContent), help="in shards")
    parser.add_argument(
        "--labels_in_turn", action="store_true", help="in shards: as many of each class"
    )


def add_data_options(parser: Parser) -> None:
    """Add the options that say which samples an encoding job reads."""
    parser.add_argument(
        "--data", type=literal_text, help="encode a data set in shards; default: the model's own"
    )
    parser.add_argument("--split", default="train", choices=get_args(SplitName), help="of it")


def refuse_bulk_options(arguments: Namespace) -> None:
    """Refuse options of bulk jobs for a command that writes no shards.

    Raises:
        InputError: an option of bulk jobs has another value than its default.
    """
    _refuse(arguments, _BULK, "is for shards; leave it out, or pass --engine")


def run_sample(arguments: Namespace) -> None:
    """Run a bulk job that writes shards of samples."""
    _require_out(arguments)
    _refuse(arguments, _SINGLE, "is for a single draw; leave it out, or --engine")
    if isinstance(arguments.codes, list):
        raise InputError(f"--codes {arguments.codes}: samples in shards have one number of codes")
    device, here = _devices(arguments)
    model = load(arguments.model, device=here, precision=arguments.precision)
    label: Any = parse_label(model, arguments.label)
    if arguments.labels_in_turn:
        if label is not None or model.labels is None:
            why = f"label {label!r} was given" if model.labels else "this model has no labels"
            raise InputError(f"--labels_in_turn, but {why}; leave one out")
        label = range(len(model.labels))
    job = sample_job(
        arguments.model,
        model,
        arguments.n,
        seed=arguments.seed,
        codes=arguments.codes,
        quality=arguments.quality,
        label=label,
        save=arguments.keep,
        sharding=read_config(ShardingConfig, arguments),
        device=device,
        **sampling_kwargs_from(arguments),
    )
    _run_job(job, arguments)


def run_encode(arguments: Namespace) -> None:
    """Run a bulk job that encodes a data set into shards of codes."""
    _require_out(arguments)
    if arguments.files:
        raise InputError(f"{arguments.files[0]} was given beside --engine or --data; leave one out")
    device, here = _devices(arguments)
    model = load(arguments.model, device=here)
    job = encode_job(
        arguments.model,
        model,
        model_data_config(model, arguments.data),
        split=arguments.split,
        sharding=read_config(ShardingConfig, arguments),
        device=device,
    )
    _run_job(job, arguments)


def _require_out(arguments: Namespace) -> None:
    """Refuse a bulk job without `--out`."""
    if arguments.out is None:
        raise InputError("shards need --out, a folder or a URL such as s3://bucket/folder")


def _devices(arguments: Namespace) -> tuple[Device | None, str]:
    """Return the device of the workers and that of this process.

    With Ray this process only prepares the job and needs no GPU.
    """
    ray = arguments.engine == "ray"
    if not ray:
        set_threads_from(arguments)
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
            engine=arguments.engine or "local",
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
        made=report.new_samples,
        seconds=round(report.elapsed_s, 4),
        samples_per_s=round(report.samples_per_s, 1),
        samples_per_worker_s=round(report.samples_per_worker_s, 1),
        codes_per_worker_s=round(report.codes_per_worker_s, 1),
        **({} if seed is None else {"seed": seed}),
    )


def _refuse(arguments: Namespace, defaults: dict[str, Any], why: str) -> None:
    """Refuse options whose values differ from their defaults."""
    for name, usual in defaults.items():
        if name in arguments and arguments[name] != usual:
            raise InputError(f"--{name} {why}")


@contextmanager
def _raise_on_signals() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt on Ctrl-C and SIGTERM, and yield the list of signals received so far.

    Python drops exceptions in destructors, such as those of pyarrow files. A job that checks the
    list ends even if its interrupt was dropped.
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
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
