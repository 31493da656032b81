"""Draw pictures from a model, with any number of codes, into one grid."""

from __future__ import annotations

import math
import time
from pathlib import Path

from jsonargparse import Namespace

from anytime_ar.cli.options import add_device, add_draw_options, add_json, draw_options, show
from anytime_ar.cli.parser import Parser
from anytime_ar.data import image_grid, write_image
from anytime_ar.sampling import load


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("-n", type=int, default=16, help="number of samples")
    add_draw_options(parser)
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="picture to write")
    parser.add_argument("--columns", type=int | None, help="pictures in a row; default: a square")
    add_device(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    model = load(arguments.model, device=arguments.device)
    options = draw_options(model, arguments)
    begin = time.perf_counter()
    samples = model.sample(arguments.n, **options)
    seconds = time.perf_counter() - begin
    columns = arguments.columns or math.ceil(math.sqrt(arguments.n))
    write_image(arguments.out, image_grid(samples.cpu(), columns))
    codes = options["codes"] or model.code_length
    show(
        arguments,
        f"{arguments.out}: {arguments.n} samples of {codes} of {model.code_length} codes "
        f"in {seconds:.2f} s, seed {options['seed']}",
        out=str(arguments.out),
        samples=arguments.n,
        codes=codes,
        code_length=model.code_length,
        seconds=round(seconds, 4),
        seed=options["seed"],
    )
