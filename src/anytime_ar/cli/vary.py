"""Draw variations of a sample: keep its first codes, and draw the others anew.

The sample is an image or audio file, a codes file of `anytime encode`, or a file that
`anytime sample --save-state` wrote. The more codes are kept, the closer the variations are. A
sample without a label gets the one under which the model finds its codes most likely.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from jsonargparse import Namespace
from torch import Tensor

from anytime_ar.cli.options import (
    add_budget_options,
    add_candidates,
    add_output_options,
    add_sampling_options,
    budget_from,
    candidates_from,
    check_columns,
    progress_bar,
    sampling_options_from,
    set_threads_from,
    tune_threads_without_kernel,
)
from anytime_ar.cli.parser import Parser, literal_path
from anytime_ar.cli.sample import print_summary, write_samples
from anytime_ar.cli.sample_files import SampleFiles
from anytime_ar.codes import load_codes
from anytime_ar.errors import InputError
from anytime_ar.runtime.files import check_output_path
from anytime_ar.runtime.signals import defer_interrupts
from anytime_ar.sampling import SampleKwargs, SamplingState, load


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime vary`."""
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("file", type=literal_path, help="image, audio, codes or state to vary")
    parser.add_argument("--keep", type=int, required=True, help="number of codes to keep")
    parser.add_argument(
        "-n", "--num-samples", type=int, default=8, help="number of variations of each sample"
    )
    parser.add_argument("--codes", type=int | None, help="codes per sample; default: all")
    add_budget_options(parser)
    add_sampling_options(parser)
    add_candidates(parser)
    add_output_options(parser)


def run(arguments: Namespace) -> None:
    """Generate variations and write them to files."""
    if arguments.save_state is not None:
        check_output_path(arguments.save_state)
    check_columns(arguments)
    set_threads_from(arguments)
    model = load(arguments.model, device=arguments.device, precision=arguments.precision)
    files = SampleFiles(model)
    out = files.output_path(arguments.out, "variations")
    given = _read(files, arguments.file)
    settings = sampling_options_from(model, arguments)
    tune_threads_without_kernel(arguments)
    if arguments.deadline_s is not None and arguments.num_samples >= 1:
        model.warm_up(arguments.num_samples, guidance=settings.get("guidance"))
    with defer_interrupts() as interrupted:
        limits = budget_from(arguments, arguments.codes, cancel=interrupted)
        options: SampleKwargs = {**settings, **candidates_from(arguments), **limits}
        result = model.vary(given, keep=arguments.keep, n=arguments.num_samples, **options)
        written = write_samples(files, result, out, arguments)
    print_summary(model, result, written, arguments, seed=settings["seed"])


def _read(files: SampleFiles, path: Path) -> Tensor | SamplingState:
    """Read a state or codes int64 [B, k], by the content of a file, or encode an image or a sound.

    Raises:
        InputError: the file is missing, does not fit the model, or is audio longer than a sample.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
            is_codes_file = zipfile.is_zipfile(file)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; pass an image, audio, codes or state"
        ) from error
    if is_codes_file:
        return load_codes(path).codes
    if start[8:] == b"{":  # a safetensors file begins with the length of a JSON object
        return files.model.load_state(path)
    with progress_bar("encode") as progress:
        codes = files.encode([path], progress).codes
    if len(codes) > 1:
        raise InputError(f"{path} is longer than a sample of this model; pass a part of it")
    return codes
