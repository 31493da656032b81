"""The decode loop: the one place where codes are drawn from a prior, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from anytime_ar.prior import Prior
from anytime_ar.sampling.budget import Budget
from anytime_ar.sampling.choice import ChoiceConfig, choose, guide


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
        noise: float64 [B, L] in [0, 1); row i decides sample i (see `row_noise`).
        budget: asked before every code.
        labels: int64 [B], or None for an unconditional draw.
        choice: temperature, top-k, top-p and guidance.

    Yields:
        int64 [B, k] for k = 1, 2, ...: all codes so far.
    """
    batch = len(noise)
    guided = labels is not None and choice.guidance != 1
    if labels is not None and guided:  # a second set of rows is drawn along without the label
        labels = torch.cat([labels, torch.full_like(labels, prior.no_label)])
    with torch.no_grad():
        cache = prior.allocate(2 * batch if guided else batch)
        codes = torch.empty(batch, prior.code_length, dtype=torch.int64, device=noise.device)
        previous = None
    drawn = 0
    while budget.allows(drawn):
        with torch.no_grad():
            logits = prior.step(cache, drawn, previous, labels)
            if guided:
                with_label, without_label = logits.chunk(2)
                logits = guide(with_label, without_label, choice.guidance)
            chosen = choose(logits, noise[:, drawn], choice)
            codes[:, drawn] = chosen
            previous = chosen.repeat(2) if guided else chosen
        drawn += 1
        yield codes[:, :drawn].clone()
