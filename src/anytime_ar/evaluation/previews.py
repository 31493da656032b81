"""Measures the time to the first preview.

It is compared with the one step and the one decode that it requires at least.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from anytime_ar.errors import InputError
from anytime_ar.evaluation.speed import BenchmarkTiming
from anytime_ar.sampling import AnytimeModel, DecodeBatch

FIRST_PREVIEW = "first preview"
"""Name of the timing of the first preview."""
STEP_AND_DECODE = "one step and one decode"
"""Name of the timing of a step and a decode."""


def time_first_preview(
    model: AnytimeModel,
    batch_size: int,
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[BenchmarkTiming, BenchmarkTiming]:
    """Time the first preview of `stream`, and one step with one decode, alternating.

    Args:
        model: model to measure.
        batch_size: number of samples per call.
        rounds: number of timed rounds, at least 1; a warm-up round comes first.
        clock: returns the time in seconds.

    Returns:
        The timings of the first preview, and of the step with the decode.

    Raises:
        InputError: `rounds` is below 1.
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
