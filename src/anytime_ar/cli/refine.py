"""Go on with a draw that was saved by `anytime sample --save_state`.

The codes are those that the draw would have had without the interruption.
"""

from __future__ import annotations

from jsonargparse import Namespace

from anytime_ar.cli.media import media_of
from anytime_ar.cli.options import (
    add_budget_options,
    add_drawing,
    budget_options,
    check_columns,
    use_threads,
)
from anytime_ar.cli.parser import Parser, to_path
from anytime_ar.cli.sample import report, write_samples
from anytime_ar.files import check_output
from anytime_ar.interrupt import interrupts_held
from anytime_ar.sampling import load


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="the model that drew it: shipped name, folder, or Hub id")
    parser.add_argument("state", type=to_path, help="file written by --save_state")
    parser.add_argument("--codes", type=int | None, help="codes per sample; default: all")
    add_budget_options(parser)
    add_drawing(parser)


def run(arguments: Namespace) -> None:
    if arguments.save_state is not None:
        check_output(arguments.save_state)
    check_columns(arguments)
    use_threads(arguments)
    model = load(arguments.model, device=arguments.device, precision=arguments.precision)
    media = media_of(model)
    out = media.destination(arguments.out, "samples")
    state = model.load_state(arguments.state)
    with interrupts_held() as interrupted:
        limits = budget_options(arguments, arguments.codes, cancel=interrupted)
        result = state.extend(**limits)
        written = write_samples(media, result, out, arguments)
    report(model, result, written, arguments)
