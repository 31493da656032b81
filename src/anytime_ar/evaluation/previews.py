"""How long the first preview takes, beside the one step and the one decode that it cannot do
without."""

from __future__ import annotations

import time
from collections.abc import Callable

from anytime_ar.errors import InputError
from anytime_ar.evaluation.speed import BenchmarkTiming
from anytime_ar.sampling import AnytimeModel, DecodeBatch

FIRST_PREVIEW = "first preview"
STEP_AND_DECODE = "one step and one decode"


def time_first_preview(
    model: AnytimeModel,
    batch_size: int,
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[BenchmarkTiming, BenchmarkTiming]:
    """Time from the call of `stream` to its first preview, and a step with a decode of its own, in
    turns.

    Args:
        model: to draw from.
        batch_size: samples of each draw.
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
        stream = model.stream(batch_size, seed=seed)
        next(stream)
        first.append(clock() - begin)
        del stream
        plan, _ = model.plan(batch_size, seed=seed)
        batch = DecodeBatch(model.sampler.decoder, batch_size)
        ids = batch.add(plan.noise, plan.labels, plan.sampling_params)
        begin = clock()
        batch.step()
        model.sampler.decode(batch.codes(ids))
        bare.append(clock() - begin)
    return BenchmarkTiming(FIRST_PREVIEW, batch_size, tuple(first[1:])), BenchmarkTiming(
        STEP_AND_DECODE, batch_size, tuple(bare[1:])
    )
