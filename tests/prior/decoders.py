"""Priors with random weights, and ways to step through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from anytime_ar.conditions import Conditions
from anytime_ar.kernel import BuildError, kernel_library
from anytime_ar.prior import (
    DecodeState,
    Precision,
    Prior,
    PriorConfig,
    PriorDecoder,
    RowSamplingParams,
    SamplingParams,
)

LABELS = 3
PRECISIONS: list[Precision] = ["float32", "bfloat16", "int8"]
try:
    kernel_library()
    NO_KERNEL = None
except BuildError as error:
    NO_KERNEL = str(error)
needs_kernel = pytest.mark.skipif(NO_KERNEL is not None, reason=str(NO_KERNEL))
BACKENDS = [pytest.param("native", marks=needs_kernel), "portable"]


def build(
    size: tuple[int, int, int] = (2, 64, 2),
    length: int = 40,
    entries: int = 33,
    **options: Any,
) -> Prior:
    layers, width, heads = size
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = PriorConfig(layers=layers, width=width, heads=heads, **options)
        prior = Prior(config, length, entries, LABELS).eval()
        with torch.no_grad():  # weights start small; here everything should matter
            for weight in prior.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
            prior.codebook_features.normal_(std=0.1)
    return prior


def some_codes(prior: Prior, n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(prior.vocabulary, (n, prior.code_length), generator=generator)


def some_labels(n: int) -> Tensor:
    return torch.arange(n) % (LABELS + 1)


def fill(
    decoder: PriorDecoder[Any],
    rows: DecodeState[Any],
    *,
    labels: Tensor,
    codes: Tensor | None = None,
    choice: SamplingParams | None = None,
    conditions: Conditions | None = None,
) -> None:
    """Give every row what it is drawn with, and codes that are there already or will be drawn."""
    decoder.set_conditions(rows, 0, labels, conditions)
    if codes is not None:
        rows.codes[:] = codes
    put(rows, [0] * len(rows))
    for slot in range(len(rows)):
        rows.sampling_params[slot] = RowSamplingParams.of(choice or SamplingParams())


def put(rows: DecodeState[Any], positions: Sequence[int]) -> None:
    rows.positions[: len(positions)] = list(positions)


def step_through(
    decoder: PriorDecoder[Any],
    codes: Tensor,
    labels: Tensor,
    *,
    start: int = 0,
    replay: bool = False,
    conditions: Conditions | None = None,
) -> Tensor:
    """Logits float [B, L - start, V] of the cached path, where these codes are drawn."""
    n = len(codes)
    rows = decoder.allocate(n)
    fill(decoder, rows, labels=labels, codes=codes, conditions=conditions)
    if replay:
        put(rows, [start] * n)
        decoder.prefill(rows, 0, n)
        assert rows.positions[:] == [start] * n
    logits = []
    for position in range(start if replay else 0, codes.shape[1]):
        put(rows, [position] * n)
        logits.append(decoder.logits(rows, n))
    return torch.stack(logits[-(codes.shape[1] - start) :], dim=1)
