"""What a stage has achieved so far, and when its losses say that it cannot go on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from anytime_ar.training.checkpoint import StateDict

DIVERGENCE_RATIO = 100.0
"""A mean loss this many times that of the untrained model will not come back. Far less happens in
sound runs: quantizer terms grow while a random codebook is found, and the error jumps when the
paper's second stage begins to truncate."""


@dataclass
class StageProgress:
    """Counters of a stage and its best weights; saved with every checkpoint."""

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Spent in the loop, over all resumptions."""
    first_loss: float = math.inf
    """Of step 1, by the untrained model."""
    best_loss: float = math.inf
    """Lowest validation loss, where validation ends the stage."""
    best_step: int = 0
    best: StateDict = field(default_factory=dict)
    """Weights of `best_step`."""

    def check_losses(self, losses: Tensor) -> str | None:
        """What is wrong with the losses float64 [n] of the last n steps, if anything is."""
        broken = (~losses.isfinite()).nonzero()  # [broken, 1]
        if len(broken):
            at = int(broken[0])
            return f"the loss is {float(losses[at])} at step {self.step - len(losses) + at + 1}"
        if self.step == len(losses):
            self.first_loss = float(losses[0])
        mean = float(losses.mean())
        if mean > DIVERGENCE_RATIO * self.first_loss:
            return (
                f"the loss has diverged to {mean:.4g} at step {self.step}, "
                f"from {self.first_loss:.4g} at step 1"
            )
        return None

    def to_record(self) -> dict[str, Any]:
        """All but the weights, as JSON can hold it."""
        numbers = {key: value for key, value in vars(self).items() if key != "best"}
        return {key: None if value == math.inf else value for key, value in numbers.items()}

    @classmethod
    def from_record(cls, record: dict[str, Any], best: StateDict) -> StageProgress:
        """What `to_record` wrote, with the weights again."""
        numbers: dict[str, Any] = {
            key: math.inf if value is None else value for key, value in record.items()
        }
        return cls(**numbers, best=best)
