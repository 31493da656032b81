"""How long the first preview takes, beside the one step and the one decode that it cannot do
without."""

from __future__ import annotations

import time
from collections.abc import Callable

from anytime_ar.errors import InputError
from anytime_ar.evaluation.speed import Timing
from anytime_ar.sampling import AnytimeModel, DecodeBatch

FIRST = "first preview"
BARE = "one step and one decode"


def first_preview(
    model: AnytimeModel,
    rows: int,
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Timing, Timing]:
    """Time from the call of `stream` to its first preview, and a step with a decode of its own, in
    turns.

    Args:
        model: to draw from.
        rows: samples of each draw.
        rounds: how often; one more, not counted, goes ahead.
        clock: gives seconds.

    Returns:
        The first preview, then the step and the decode.

    Raises:
        InputError: no rounds.
    """
    if rounds < 1:
        raise InputError(f"rounds={rounds} times nothing; pass at least 1")
    first, bare = [], []
    for seed in range(rounds + 1):
        begin = clock()
        stream = model.stream(rows, seed=seed)
        next(stream)
        first.append(clock() - begin)
        del stream
        plan, _ = model.plan(rows, seed=seed)
        batch = DecodeBatch(model.engine.decoder, rows)
        ids = batch.join(plan.noise, plan.labels, plan.choice)
        begin = clock()
        batch.step()
        model.engine.decode(batch.codes(ids))
        bare.append(clock() - begin)
    return Timing(FIRST, rows, tuple(first[1:])), Timing(BARE, rows, tuple(bare[1:]))
