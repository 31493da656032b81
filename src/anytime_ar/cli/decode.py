"""Turn codes, or any prefix of them, into pictures or sounds: from a codes file, or from numbers.

The windows of a long sound are put together again; several sounds become a folder of files and a
sheet of spectrograms.
"""

from __future__ import annotations

import re

import torch
from jsonargparse import Namespace

from anytime_ar.cli.options import (
    add_device,
    add_json,
    add_threads,
    check_columns,
    print_result,
    progress_bar,
    set_threads_from,
)
from anytime_ar.cli.parser import Parser, literal_path
from anytime_ar.cli.sample_files import EncodedFiles, sample_files_for
from anytime_ar.codes import load_codes
from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel, load

_NUMBER = re.compile(r"-?[0-9]{1,4000}")  # Python refuses longer ones


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("source", nargs="+", help="a codes file (.npz), or codes as numbers")
    parser.add_argument("--codes", type=int | None, help="keep only so many of each row's codes")
    parser.add_argument(
        "--out", type=literal_path, help="file to write; default: decoded.png, sounds: decoded.wav"
    )
    parser.add_argument("--columns", type=int | None, help="pictures in a row; default: a square")
    add_threads(parser)
    add_device(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    encoded = _read_codes(arguments.source)
    kept = given = encoded.codes.shape[1]
    if arguments.codes is not None:
        kept = arguments.codes
        if not 1 <= kept <= given:
            raise InputError(f"--codes {kept} is outside 1..{given}, the codes given")
    check_columns(arguments)
    set_threads_from(arguments)
    model = load(arguments.model, device=arguments.device)
    _check_windows(encoded, model)
    media = sample_files_for(model)
    out = media.output_path(arguments.out, "decoded")
    prefix = encoded._replace(codes=encoded.codes[:, :kept])
    with progress_bar("decode") as progress:
        written, report = media.decode(prefix, out, arguments.columns, progress)
    print_result(
        arguments,
        f"{written}: {report.text} from {kept} of {model.code_length} codes",
        **written.json_fields,
        **report.json_fields,
        codes=kept,
        code_length=model.code_length,
    )


def _read_codes(source: list[str]) -> EncodedFiles:
    """Codes of a file, or of one row of numbers."""
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
    return EncodedFiles(file.codes, file.windowed_audio)


def _check_windows(encoded: EncodedFiles, model: AnytimeModel) -> None:
    sound = encoded.windowed_audio
    if sound is None or (model.sample_shape, model.sample_rate) == (
        (1, sound.window),
        sound.sample_rate,
    ):
        return
    rate = "" if model.sample_rate is None else f" at {model.sample_rate} Hz"
    raise InputError(
        f"these are codes of a sound at {sound.sample_rate} Hz in windows of {sound.window} "
        f"samples, but this model's samples are {model.sample_shape}{rate}; use the model that "
        "encoded it"
    )
