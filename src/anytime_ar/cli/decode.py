"""Decode codes, or any prefix of them, into samples: from a codes file, or from numbers.

Windows of long audio are joined again. Several clips become a folder of files and an image of their
spectrograms.
"""

from __future__ import annotations

import re

import torch
from jsonargparse import Namespace

from anytime_ar.cli.options import (
    add_run_options,
    check_columns,
    print_result,
    progress_bar,
    set_threads_from,
    tune_threads_without_kernel,
)
from anytime_ar.cli.parser import Parser, literal_text
from anytime_ar.cli.sample_files import EncodedFiles, SampleFiles
from anytime_ar.codes import load_codes
from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel, load

_NUMBER = re.compile(r"-?[0-9]{1,4000}")  # Python refuses longer ones


def add_arguments(parser: Parser) -> None:
    """Add the options of `anytime decode`."""
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("source", nargs="+", help="a codes file (.npz), or codes as numbers")
    parser.add_argument("--codes", type=int | None, help="keep only so many of each row's codes")
    parser.add_argument(
        "--out",
        type=literal_text,
        help="file to write; default: decoded.png, audio: decoded.wav, series: decoded.npy",
    )
    parser.add_argument("--columns", type=int | None, help="images in a row; default: a square")
    add_run_options(parser)


def run(arguments: Namespace) -> None:
    """Decode codes and write the samples to files."""
    encoded = _read_codes(arguments.source)
    num_codes = given = encoded.codes.shape[1]
    if arguments.codes is not None:
        num_codes = arguments.codes
        if not 1 <= num_codes <= given:
            raise InputError(f"--codes {num_codes} is outside 1..{given}, the codes given")
    check_columns(arguments)
    set_threads_from(arguments)
    model = load(arguments.model, device=arguments.device)
    _check_windows(encoded, model)
    files = SampleFiles(model)
    out = files.output_path(arguments.out, "decoded")
    tune_threads_without_kernel(arguments)
    prefix = encoded._replace(codes=encoded.codes[:, :num_codes])
    with progress_bar("decode") as progress:
        written, report = files.decode(prefix, out, arguments.columns, progress)
    print_result(
        arguments,
        f"{written}: {report.text} from {num_codes} of {model.code_length} codes",
        **written.json_fields,
        **report.json_fields,
        codes=num_codes,
        code_length=model.code_length,
    )


def _read_codes(source: list[str]) -> EncodedFiles:
    """Return the codes of a file, or one row of codes from numbers.

    Raises:
        InputError: there are no codes, or they cannot be read.
    """
    numbers = " ".join(source).replace(",", " ").split()
    if not numbers:
        raise InputError("no codes were given; pass a codes file, or numbers")
    if all(_NUMBER.fullmatch(number) for number in numbers):
        for number in numbers:
            if abs(int(number)) >= 2**63:
                raise InputError(f"{number} is no code; codes are 0 to the size of the vocabulary")
        return EncodedFiles(torch.tensor([[int(number) for number in numbers]]))
    if len(source) > 1:
        raise InputError(f"expected one codes file or numbers only, got {' '.join(source)!r}")
    file = load_codes(source[0])
    if not len(file.codes):
        raise InputError(f"{source[0]} holds codes of no sample; encode at least one")
    return EncodedFiles(file.codes, file.windowed_audio)


def _check_windows(encoded: EncodedFiles, model: AnytimeModel) -> None:
    """Refuse windows of audio that do not fit the model."""
    audio = encoded.windowed_audio
    if audio is None or (model.sample_shape[1:], model.sample_rate) == (
        (audio.window,),
        audio.sample_rate,
    ):
        return
    rate = "" if model.sample_rate is None else f" at {model.sample_rate} Hz"
    raise InputError(
        f"these are codes of a sound at {audio.sample_rate} Hz in windows of {audio.window} "
        f"samples, but this model's samples are {model.sample_shape}{rate}; use the model that "
        "encoded it"
    )
