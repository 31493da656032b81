"""Draw samples from a model: by codes, by seconds, by quality, or until Ctrl-C.

Pictures come in one grid. A sound becomes `samples.wav`; several become `samples/0.wav` and so on,
with their spectrograms in `samples.png`. Several numbers of codes, as in `--codes "[1,2,4,8]"`,
give a row per sample, a column per number, and for sounds a file each. Ctrl-C ends the draw, and
the samples are written with the codes that there are.

With `--engine`, `-n 1000000` samples go into shards in a folder, or in a bucket as
`--out s3://bucket/folder`. The same command continues where it was interrupted.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from anytime_ar.cli.bulk import (
    add_bulk_options,
    add_bulk_samples,
    refuse_bulk_options,
    sample_in_bulk,
)
from anytime_ar.cli.media import media_of
from anytime_ar.cli.options import (
    add_budget_options,
    add_draw_options,
    add_drawing,
    budget_options,
    check_columns,
    draw_options,
    show,
    use_threads,
)
from anytime_ar.cli.parser import Parser
from anytime_ar.cli.pictures import Media, Written
from anytime_ar.files import check_output
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
    add_bulk_options(parser)
    add_bulk_samples(parser)


def run(arguments: Namespace) -> None:
    if arguments.engine is not None:
        sample_in_bulk(arguments)
        return
    refuse_bulk_options(arguments)
    if arguments.save_state is not None:
        check_output(arguments.save_state)
    check_columns(arguments)
    use_threads(arguments)
    model = load(arguments.model, device=arguments.device, precision=arguments.precision)
    media = media_of(model)
    out = media.destination(arguments.out, "samples")
    asked = arguments.codes
    settings = draw_options(model, arguments)
    if arguments.deadline_s is not None and arguments.n >= 1:
        model.warm_up(arguments.n, guidance=settings.get("guidance"))
    # Made at the first use, and perhaps compiled for that: with no codes to lose, Ctrl-C ends it.
    model.engine  # noqa: B018
    with interrupts_held() as interrupted:
        codes = max(asked, default=0) if isinstance(asked, list) else asked
        limits = budget_options(arguments, codes, cancel=interrupted)
        options: DrawOptions = {**settings, **limits}
        result = model.draw(arguments.n, **options)
        columns = asked if isinstance(asked, list) else None
        written = write_samples(media, result, out, arguments, columns)
    report(model, result, written, arguments, seed=settings["seed"])


def write_samples(
    media: Media,
    result: Preview,
    out: Path,
    arguments: Namespace,
    budgets: list[int] | None = None,
) -> Written:
    """Write the samples of a result, at each of several numbers of codes if those are given, and
    its state where that is asked for."""
    if arguments.save_state is not None:
        result.state.save(arguments.save_state)
    if budgets is None:
        return media.write(result.data, out, arguments.columns)
    reached = [k for k in budgets if k <= result.codes_drawn] or [result.codes_drawn]
    return media.write_budgets(result.codes, reached, out)


def report(
    model: AnytimeModel,
    result: Preview,
    written: Written,
    arguments: Namespace,
    *,
    seed: int | None = None,
) -> None:
    """Say what was drawn, in how much time, and why it ended where that was not the plan."""
    ended = {"deadline": ", ended by the deadline", "cancelled": ", interrupted"}
    n, drawn = len(result.data), result.codes_drawn
    show(
        arguments,
        f"{written}: {n} samples of {drawn} of {model.code_length} codes "
        f"in {result.elapsed_s:.2f} s"
        + ended.get(result.stopped_by or "", "")
        + ("" if seed is None else f", seed {seed}"),
        **written.figures,
        samples=n,
        codes=drawn,
        code_length=model.code_length,
        seconds=round(result.elapsed_s, 4),
        stopped_by=result.stopped_by,
        **({} if seed is None else {"seed": seed}),
    )
