"""The number format of each stage, as a plugin of Fabric, which has one precision for a run.

Apart from `precision`, as importing Fabric takes a while.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from lightning_fabric.plugins import MixedPrecision
from torch import Tensor
from torch.utils._pytree import tree_map_only

from anytime_ar.runtime.mixed_precision import bfloat16_autocast
from anytime_ar.training.config import TrainingPrecision

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class SwitchablePrecision(MixedPrecision):
    """float32 or bfloat16 as Fabric's plugin, which a run has one of: each stage sets its own.

    Args:
        device: type of the device, such as `cpu`.
    """

    def __init__(self, device: str) -> None:
        super().__init__("bf16-mixed", device)
        self.uses_bfloat16 = False

    def forward_context(self) -> AbstractContextManager[Any]:
        return bfloat16_autocast(self.device) if self.uses_bfloat16 else nullcontext()

    def convert_input(self, data: Any) -> Any:
        return super().convert_input(data) if self.uses_bfloat16 else data

    def convert_output(self, data: Any) -> Any:
        # Fabric's own would convert to the default dtype of the process.
        return tree_map_only(Tensor, _to_float32, data)


def _to_float32(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def set_precision(fabric: Fabric, precision: TrainingPrecision) -> None:
    """Let Fabric compute in a number format from now on; `16-mixed` is its own from the start."""
    plugin = fabric.strategy.precision
    if isinstance(plugin, SwitchablePrecision):
        plugin.uses_bfloat16 = precision == "bf16-mixed"
