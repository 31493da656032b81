"""Options that several commands share, and how to read them."""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from jsonargparse import Namespace
from tqdm import tqdm

from anytime_ar.cli.console import is_rank_zero_process
from anytime_ar.cli.parser import Parser, literal_text
from anytime_ar.data import DataConfig
from anytime_ar.data.fingerprint import find_moved_data
from anytime_ar.errors import InputError
from anytime_ar.kernel import BuildError, kernel_library
from anytime_ar.prior import Precision
from anytime_ar.prior.sampling_params import SamplingParams
from anytime_ar.runtime.devices import resolve_device
from anytime_ar.runtime.progress import ProgressCallback
from anytime_ar.runtime.threads import omp_num_threads, set_threads, tune_threads
from anytime_ar.sampling import AnytimeModel, BudgetKwargs, CancelFlag, SampleKwargs
from anytime_ar.sampling.arguments import Schedule

_NUMBER = re.compile(r"[0-9]{1,18}")
_NAMED_OPTION = re.compile(r"--(cond|guidance)\.(\w+)(?:=(.*))?", re.DOTALL)
_FOLDED = {"cond": "--conditions", "guidance": "--condition_guidance"}
"""Options that collect the values of options with names of conditions."""


def add_device(parser: Parser) -> None:
    """Add `--device`, the device to compute on."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps, or auto")


def add_threads(parser: Parser, default_help: str = "") -> None:
    """Add `--threads`, the number of PyTorch threads.

    Args:
        parser: parser of the command.
        default_help: description of the default.
    """
    usual = "OMP_NUM_THREADS, or as many of the processors that may be used as are faster than one"
    parser.add_argument(
        "--threads", type=int | None, help=f"of PyTorch; default: {default_help or usual}"
    )


def set_threads_from(arguments: Namespace) -> None:
    """Set the number of threads that was asked for, or PyTorch's default within the processors."""
    set_threads(arguments.threads)


def tune_threads_without_kernel(arguments: Namespace) -> None:
    """Set a faster number of threads for a short command, without a message.

    Without the kernel, two threads on busy processors draw a hundred times slower than one, so they
    are timed as by `tune_threads_from`. The kernel does not suffer, and timing would take longer
    than the samples: 0.2 s, and 2 s beside other programs.
    """
    if arguments.threads is None and omp_num_threads() is None and not _has_kernel():
        _tune_threads(arguments, lambda _message: None)
    else:
        set_threads(arguments.threads)


def _has_kernel() -> bool:
    """Return whether the native kernel can be used."""
    try:
        kernel_library()
    except BuildError:
        return False
    return True


def tune_threads_from(arguments: Namespace, *, processes: int = 1) -> None:
    """Set the number of threads from the parsed arguments, or fewer where more are not faster.

    Args:
        arguments: parsed arguments with `device` and `threads`.
        processes: number of processes that share the CPUs of this machine.
    """
    _tune_threads(arguments, notify, processes)


def _tune_threads(arguments: Namespace, warn: Callable[[str], object], processes: int = 1) -> None:
    if resolve_device(arguments.device).type == "cpu":
        tune_threads(arguments.threads, warn, processes=processes)
    else:
        set_threads(arguments.threads, processes=processes)


def notify(message: str) -> None:
    """Print a message on standard error, from rank 0 only."""
    if is_rank_zero_process():
        print(f"anytime: {message}", file=sys.stderr)


def add_json(parser: Parser) -> None:
    """Add `--json`, which prints figures as JSON."""
    parser.add_argument("--json", action="store_true", help="print figures as JSON")


def add_run_options(parser: Parser, default_threads: str = "") -> None:
    """Add `--threads`, `--device` and `--json`.

    Args:
        parser: parser of the command.
        default_threads: description of the default number of threads.
    """
    add_threads(parser, default_threads)
    add_device(parser)
    add_json(parser)


def add_budget_options(parser: Parser) -> None:
    """Add the options that end a sample, except the number of codes."""
    parser.add_argument(
        "--deadline-s", type=float | None, help="seconds within which to draw and decode"
    )
    parser.add_argument(
        "--quality", type=float | None, help="share of full quality, by the measured curve"
    )
    parser.add_argument("--min-codes", type=int, default=1, help="at least so many codes")
    parser.add_argument("--save-state", type=literal_text, help="file to go on from with refine")


def add_precision(parser: Parser) -> None:
    """Add `--precision`, the precision of the prior."""
    parser.add_argument(
        "--precision",
        default="float32",
        choices=[*get_args(Precision), "auto"],
        help="of drawing; auto: the fastest here",
    )


def check_columns(arguments: Namespace) -> None:
    """Refuse a grid without columns before any images exist.

    Raises:
        InputError: `--columns` is below 1.
    """
    if arguments.columns is not None and arguments.columns < 1:
        raise InputError(f"columns is {arguments.columns}; pass at least 1")


def add_output_options(parser: Parser) -> None:
    """Add the options for device, precision and output files."""
    parser.add_argument(
        "--out", type=literal_text, help="file to write; default: samples.png, audio: samples.wav"
    )
    parser.add_argument("--columns", type=int | None, help="images in a row; default: a square")
    add_precision(parser)
    add_run_options(parser)


def add_sampling_options(parser: Parser) -> None:
    """Add the options that determine the codes: label, seed and sampling parameters."""
    parser.add_argument("--label", type=literal_text, help="class, by name or number")
    parser.add_argument(
        "--conditions",
        type=dict[str, Any] | None,
        help='other conditions by name, {"text": "a key"}; or --cond.text "a key" for each',
    )
    parser.argument_hook = _fold_conditions
    parser.add_argument("--seed", type=int | None, help="default: a fresh one, which is printed")
    add_sampling_params(parser)


def add_candidates(parser: Parser) -> None:
    """Add the options that choose among several beginnings of each sample."""
    parser.add_argument(
        "--candidates", type=int, default=1, help="beginnings of each sample; the likeliest goes on"
    )
    parser.add_argument(
        "--candidate-codes", type=int | None, help="codes of a beginning; default: a quarter"
    )


def candidates_from(arguments: Namespace) -> SampleKwargs:
    """Return the candidates of the parsed arguments."""
    return SampleKwargs(candidates=arguments.candidates, candidate_codes=arguments.candidate_codes)


def add_sampling_params(parser: Parser) -> None:
    """Add the sampling parameters, which default to those of the model.

    Several numbers form a schedule from the first code to the last.
    """
    parser.add_argument(
        "--temperature", type=float | list[float] | None, help="0: most likely codes"
    )
    parser.add_argument("--top-k", type=int | None, help="only the k most likely entries")
    parser.add_argument(
        "--top-p", type=float | list[float] | None, help="only the likeliest of mass p"
    )
    parser.add_argument(
        "--guidance", type=float | list[float] | None, help="above 1: follow label, conditions more"
    )
    parser.add_argument(
        "--condition-guidance",
        type=dict[str, float | list[float]] | None,
        help='guidance of single conditions, {"text": 3}; or --guidance.text 3 for each',
    )


def _fold_conditions(arguments: list[str]) -> list[str]:
    """Collect `--cond.NAME VALUE` in `--conditions`, and `--guidance.NAME VALUE` alike.

    Raises:
        InputError: a value is missing, or the conditions are given in both ways.
    """
    kept: list[str] = []
    folded: dict[str, dict[str, Any]] = {}
    at = 0
    while at < len(arguments):
        match = _NAMED_OPTION.fullmatch(arguments[at])
        at += 1
        if match is None:
            kept.append(arguments[at - 1])
            continue
        prefix, name, value = match.groups()
        if value is None:
            if at == len(arguments):
                raise InputError(f"--{prefix}.{name} needs a value")
            value, at = arguments[at], at + 1
        folded.setdefault(_FOLDED[prefix], {})[name] = _condition_value(value)
    for option, values in folded.items():
        if any(argument.partition("=")[0] == option for argument in kept):
            raise InputError(f"{option.replace('_', '-')} was given in two ways; leave one out")
        kept += [option, json.dumps(values)]
    return kept


def _condition_value(text: str) -> Any:
    """Return a number or a list as such, and any other text as it is."""
    if _NUMBER.fullmatch(text) or text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    try:
        return float(text)
    except ValueError:
        return text


def budget_from(arguments: Namespace, codes: int | None, cancel: CancelFlag) -> BudgetKwargs:
    """Return the budget of the parsed arguments.

    Args:
        arguments: parsed arguments with the budget options.
        codes: number of codes per sample; None: all.
        cancel: flag that stops the sample.
    """
    return BudgetKwargs(
        codes=codes,
        deadline_s=arguments.deadline_s,
        quality=arguments.quality,
        min_codes=arguments.min_codes,
        cancel=cancel,
    )


def sampling_options_from(model: AnytimeModel, arguments: Namespace) -> SampleKwargs:
    """Return the label, the seed and the sampling parameters of the parsed arguments.

    A random seed is taken if none was given.
    """
    return SampleKwargs(
        label=parse_label(model, arguments.label),
        conditions=arguments.conditions,
        seed=secrets.randbits(32) if arguments.seed is None else arguments.seed,
        **sampling_kwargs_from(arguments),  # type: ignore[typeddict-item]
    )


def parse_label(model: AnytimeModel, label: str | None) -> int | str | None:
    """Return the label as a name, or as a number if no label has that name."""
    if label is not None and _NUMBER.fullmatch(label) and label not in (model.labels or ()):
        return int(label)
    return label


def model_data_config(
    model: AnytimeModel, location: str, name: str | None, label_key: str | None = None
) -> DataConfig:
    """Return the configuration of the data set that a model was trained on.

    Args:
        model: the model, whose data settings are used.
        location: shipped name, folder or Hub ID of the model; a run knows where its data is.
        name: path or name of the data set; None: that of the training.
        label_key: column or key of the labels; None: that of the training.
    """
    card = model.bundle.card
    values = card.training.get("data", {"name": card.data.name})
    config = DataConfig.parse(values, origin=f"data of model {card.name!r}")
    run = Path(location) if is_run(location) else Path(location).parent
    if name is None and Path(location).is_dir() and is_run(run):
        config = find_moved_data(config, run)
    changes = {"name": name, "label_key": label_key}
    return config.model_copy(update={key: to for key, to in changes.items() if to is not None})


def is_run(folder: Path | str) -> bool:
    """Return whether a path is the folder of a run."""
    return (Path(folder) / "config.yaml").is_file()


def parse_named_path(text: str) -> tuple[str, str]:
    """Split NAME=PATH into name and location; the name is empty if there is none.

    An existing path is always a location. A name has no slash, so `runs/lr=3` is a location.
    """
    name, equals, where = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        return "", text
    return name, where


def sampling_kwargs_from(arguments: Namespace) -> dict[str, Schedule]:
    """Return the sampling parameters that the parsed arguments set."""
    given = {name: arguments[name] for name in SamplingParams.model_fields}
    return {name: value for name, value in given.items() if value is not None}


def print_result(arguments: Namespace, text: str, **figures: Any) -> None:
    """Print text for people, or figures as JSON with `--json`."""
    print(json.dumps(figures, allow_nan=False) if arguments.json else text)


@contextmanager
def progress_bar(name: str) -> Iterator[ProgressCallback]:
    """Show a progress bar on standard error if the work takes a while.

    Yields:
        A callback that takes (done, total, what).
    """
    with tqdm(desc=name, dynamic_ncols=True, delay=0.5) as bar:

        def update(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_postfix_str(what, refresh=False)
            bar.update(done - bar.n)

        yield update
