"""Draw pictures from a model, with any number of codes, into one grid.

Several numbers of codes, as in `--codes "[1,2,4,8]"`, give a row per sample, a column per number.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from jsonargparse import Namespace

from anytime_ar.cli.options import add_device, add_draw_options, add_json, draw_options, show
from anytime_ar.cli.parser import Parser
from anytime_ar.data import image_grid, write_image
from anytime_ar.evaluation import contact_sheet, write_contact_sheet
from anytime_ar.sampling import load


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("-n", type=int, default=16, help="number of samples")
    parser.add_argument(
        "--codes", type=int | list[int] | None, help="codes per sample, or a list; default: all"
    )
    add_draw_options(parser)
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="picture to write")
    parser.add_argument("--columns", type=int | None, help="pictures in a row; default: a square")
    add_device(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    model = load(arguments.model, device=arguments.device)
    asked = arguments.codes
    budgets = asked if isinstance(asked, list) else [asked or model.code_length]
    codes = max(budgets, default=0)
    options = draw_options(model, arguments, codes)
    begin = time.perf_counter()
    drawn = model.sample_codes(arguments.n, **options)
    if isinstance(asked, list):
        write_contact_sheet(contact_sheet(model, drawn, asked), asked, arguments.out)
    else:
        columns = arguments.columns or math.ceil(math.sqrt(arguments.n))
        write_image(arguments.out, image_grid(model.decode(drawn).cpu(), columns))
    seconds = time.perf_counter() - begin
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
