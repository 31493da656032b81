"""The decode loop: the one place where codes are drawn from a prior, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from anytime_ar.prior import Prior
from anytime_ar.sampling.budget import Budget
from anytime_ar.sampling.choice import ChoiceConfig, choose, guide

FEWEST_ROWS = 4
"""Smaller draws are filled up to this many rows. BLAS multiplies fewer rows by another kernel that
rounds differently, so that one sample in thousands would get other codes alone than in a batch."""


def draw(
    prior: Prior,
    noise: Tensor,
    *,
    budget: Budget,
    labels: Tensor | None = None,
    choice: ChoiceConfig,
) -> Iterator[Tensor]:
    """Draw codes until the budget ends, yielding the prefix after every code.

    Nothing is computed before the next item is asked for, and closing the generator ends the draw.

    Args:
        prior: in evaluation mode.
        noise: float64 [B, L] in [0, 1); row i decides sample i (see `row_noise`). Codes are chosen
            on its device, which may be another than the prior's.
        budget: asked before every code.
        labels: int64 [B], or None for an unconditional draw.
        choice: temperature, top-k, top-p and guidance.

    Yields:
        int64 [B, k] for k = 1, 2, ...: all codes so far.
    """
    batch = len(noise)
    noise = _fill_up(noise)
    labels = None if labels is None else _fill_up(labels)
    rows = len(noise)
    guided = labels is not None and choice.guidance != 1
    if labels is not None and guided:  # a second set of rows is drawn along without the label
        labels = torch.cat([labels, torch.full_like(labels, prior.no_label)])
    with torch.no_grad():
        cache = prior.allocate(2 * rows if guided else rows)
        codes = torch.empty(rows, prior.code_length, dtype=torch.int64, device=noise.device)
        previous = None
    drawn = 0
    while budget.allows(drawn):
        with torch.no_grad():
            logits = prior.step(cache, drawn, previous, labels)
            if guided:
                with_label, without_label = logits.chunk(2)
                logits = guide(with_label, without_label, choice.guidance)
            chosen = choose(logits.to(noise.device), noise[:, drawn], choice)
            codes[:, drawn] = chosen
            previous = chosen.to(logits.device)
            if guided:
                previous = previous.repeat(2)
        drawn += 1
        yield codes[:batch, :drawn].clone()


def _fill_up(rows: Tensor) -> Tensor:
    """Repeat the first of `rows` until there are `FEWEST_ROWS`: [B, *] -> [max(B, 4), *]."""
    missing = max(0, FEWEST_ROWS - len(rows))
    return torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])])
