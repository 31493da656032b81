"""Turn pictures or sounds into codes, coarse to fine: printed, or written to a file.

A sound may have any length: it is cut into windows that overlap, with a row of codes each. Several
sounds are rows, and have to fit into one window each.

With `--data` or `--engine`, a whole data set goes into shards of codes, in a folder, or in a bucket
as `--out s3://bucket/folder`. The same command continues where it was interrupted.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from anytime_ar.cli.bulk import (
    add_bulk_data,
    add_bulk_options,
    encode_in_bulk,
    refuse_bulk_options,
)
from anytime_ar.cli.media import media_of
from anytime_ar.cli.options import (
    add_device,
    add_json,
    add_threads,
    progress_bar,
    show,
    use_threads,
)
from anytime_ar.cli.parser import Parser, as_given, to_path
from anytime_ar.codes import save_codes
from anytime_ar.errors import InputError
from anytime_ar.files import check_output
from anytime_ar.sampling import load


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("files", nargs="*", type=to_path, help="image or sound files")
    parser.add_argument("-o", "--out", type=as_given, help="codes file (.npz) to write")
    add_bulk_data(parser)
    add_bulk_options(parser)
    add_threads(parser)
    add_device(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    if arguments.engine is not None or arguments.data is not None:
        encode_in_bulk(arguments)
        return
    refuse_bulk_options(arguments)
    if not arguments.files:
        raise InputError("nothing to encode; pass image or sound files, or --data")
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None:
        check_output(out)
    use_threads(arguments)
    model = load(arguments.model, device=arguments.device)
    media = media_of(model)
    with progress_bar("encode") as progress:
        encoded = media.encode(arguments.files, progress)
    if out is not None:
        save_codes(
            out,
            encoded.codes,
            model=str(arguments.model),
            length=model.code_length,
            vocabulary=model.vocabulary,
            sound=encoded.sound,
        )
    report = media.describe(encoded, out)
    show(arguments, report.text, **report.figures)
