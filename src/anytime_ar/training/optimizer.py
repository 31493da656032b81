"""The optimizer of every stage and its schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from anytime_ar.training.config import OptimizerConfig


def learning_rate(options: OptimizerConfig, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm = min(1.0, (step + 1) / max(1, options.warmup_steps))
    return options.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def adamw(module: nn.Module, options: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW that decays the weights of linear maps and convolutions only."""
    decayed = [
        layer.weight for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    chosen = {id(weight) for weight in decayed}
    others = [weight for weight in module.parameters() if id(weight) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(options.beta1, options.beta2))
