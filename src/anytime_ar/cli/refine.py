"""Refine samples that `anytime sample --save-state` has saved.

The codes equal those of a sample that was never stopped.
"""

from __future__ import annotations

from jsonargparse import Namespace

from anytime_ar.cli.options import (
    add_budget_options,
    add_output_options,
    budget_from,
    check_columns,
    set_threads_from,
    tune_threads_without_kernel,
)
from anytime_ar.cli.parser import Parser, literal_path
from anytime_ar.cli.sample import print_summary, write_samples
from anytime_ar.cli.sample_files import SampleFiles
from anytime_ar.runtime.files import check_output_path
from anytime_ar.runtime.signals import defer_interrupts
from anytime_ar.sampling import load


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime refine`."""
    parser.add_argument("model", help="the model of the samples: shipped name, folder, or Hub id")
    parser.add_argument("state", type=literal_path, help="file written by --save-state")
    parser.add_argument("--codes", type=int | None, help="codes per sample; default: all")
    add_budget_options(parser)
    add_output_options(parser)


def run(arguments: Namespace) -> None:
    """Refine saved samples and write them to files."""
    if arguments.save_state is not None:
        check_output_path(arguments.save_state)
    check_columns(arguments)
    set_threads_from(arguments)
    model = load(arguments.model, device=arguments.device, precision=arguments.precision)
    files = SampleFiles(model)
    out = files.output_path(arguments.out, "samples")
    state = model.load_state(arguments.state)
    tune_threads_without_kernel(arguments)
    with defer_interrupts() as interrupted:
        limits = budget_from(arguments, arguments.codes, cancel=interrupted)
        result = state.refine(**limits)
        written = write_samples(files, result, out, arguments)
    print_summary(model, result, written, arguments)
