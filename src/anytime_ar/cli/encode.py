"""Encode files of samples into codes, coarse to fine, and print the codes or write them to a file.

Audio may have any length. It is split into overlapping windows, each of which becomes a row of
codes. Several clips become one row each, and each has to fit into one window.

For a whole data set see `anytime bulk encode`.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from anytime_ar.cli.options import (
    add_run_options,
    print_result,
    progress_bar,
    set_threads_from,
)
from anytime_ar.cli.parser import Parser, literal_path, literal_text
from anytime_ar.cli.sample_files import SampleFiles
from anytime_ar.codes import save_codes
from anytime_ar.runtime.files import check_output_path
from anytime_ar.sampling import load


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime encode`."""
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("files", nargs="+", type=literal_path, help="image, audio or series files")
    parser.add_argument("-o", "--out", type=literal_text, help="codes file (.npz) to write")
    add_run_options(parser)


def run(arguments: Namespace) -> None:
    """Encode files, and write or print their codes."""
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None:
        check_output_path(arguments.out)
    set_threads_from(arguments)
    model = load(arguments.model, device=arguments.device)
    files = SampleFiles(model)
    with progress_bar("encode") as progress:
        encoded = files.encode(arguments.files, progress)
    if out is not None:
        save_codes(
            out,
            encoded.codes,
            model=str(arguments.model),
            code_length=model.code_length,
            vocabulary=model.vocabulary,
            windowed_audio=encoded.windowed_audio,
        )
    report = files.report_codes(encoded, out)
    print_result(arguments, report.text, **report.json_fields)
