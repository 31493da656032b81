"""Draw pictures from a model into one grid: by codes, by seconds, by quality, or until Ctrl-C.

Several numbers of codes, as in `--codes "[1,2,4,8]"`, give a row per sample, a column per number.
Ctrl-C ends the draw, and the pictures are written with the codes that there are.
"""

from __future__ import annotations

import math

from jsonargparse import Namespace

from anytime_ar.cli.options import (
    add_budget_options,
    add_draw_options,
    add_drawing,
    budget_options,
    draw_options,
    show,
)
from anytime_ar.cli.parser import Parser
from anytime_ar.data import image_grid, write_image
from anytime_ar.evaluation import contact_sheet, write_contact_sheet
from anytime_ar.interrupt import interrupts_held
from anytime_ar.sampling import AnytimeModel, DrawOptions, Preview, load


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="shipped name, folder, or Hub id")
    parser.add_argument("-n", type=int, default=16, help="number of samples")
    parser.add_argument(
        "--codes", type=int | list[int] | None, help="codes per sample, or a list; default: all"
    )
    add_budget_options(parser)
    add_draw_options(parser)
    add_drawing(parser)


def run(arguments: Namespace) -> None:
    model = load(arguments.model, device=arguments.device, precision=arguments.precision)
    asked = arguments.codes
    settings = draw_options(model, arguments)
    if arguments.deadline_s is not None and arguments.n >= 1:
        model.warm_up(arguments.n, guidance=arguments.guidance)
    with interrupts_held() as interrupted:
        codes = max(asked, default=0) if isinstance(asked, list) else asked
        limits = budget_options(arguments, codes, cancel=interrupted)
        options: DrawOptions = {**settings, **limits}
        result = model.draw(arguments.n, **options)
        columns = asked if isinstance(asked, list) else None
        write_samples(model, result, arguments, columns)
    report(model, result, arguments, seed=settings["seed"])


def write_samples(
    model: AnytimeModel, result: Preview, arguments: Namespace, budgets: list[int] | None = None
) -> None:
    """Write the picture of a result, a column per number of codes if there are several, and its
    state where that is asked for."""
    if arguments.save_state is not None:
        result.state.save(arguments.save_state)
    if budgets is None:
        columns = arguments.columns or math.ceil(math.sqrt(len(result.data)))
        write_image(arguments.out, image_grid(result.data.cpu(), columns))
        return
    reached = [k for k in budgets if k <= result.codes_drawn] or [result.codes_drawn]
    write_contact_sheet(contact_sheet(model, result.codes, reached), reached, arguments.out)


def report(
    model: AnytimeModel, result: Preview, arguments: Namespace, *, seed: int | None = None
) -> None:
    """Say what was drawn, in how much time, and why it ended where that was not the plan."""
    ended = {"deadline": ", ended by the deadline", "cancelled": ", interrupted"}
    n, drawn = len(result.data), result.codes_drawn
    show(
        arguments,
        f"{arguments.out}: {n} samples of {drawn} of {model.code_length} codes "
        f"in {result.elapsed_s:.2f} s"
        + ended.get(result.stopped_by or "", "")
        + ("" if seed is None else f", seed {seed}"),
        out=str(arguments.out),
        samples=n,
        codes=drawn,
        code_length=model.code_length,
        seconds=round(result.elapsed_s, 4),
        stopped_by=result.stopped_by,
        **({} if seed is None else {"seed": seed}),
    )
