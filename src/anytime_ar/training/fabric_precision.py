"""Plugin of Fabric that switches the number format between the stages of a run.

The module is separate because it imports Fabric, which is slow.
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
    """A precision plugin that each stage sets to float32 or bfloat16.

    Args:
        device: Type of the device, such as `cpu`.
    """

    def __init__(self, device: str) -> None:
        """Start with float32 as the number format."""
        super().__init__("bf16-mixed", device)
        self.uses_bfloat16 = False
        """Whether forward passes compute in bfloat16."""

    def forward_context(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass: autocast to bfloat16, or nothing."""
        return bfloat16_autocast(self.device) if self.uses_bfloat16 else nullcontext()

    def convert_input(self, data: Any) -> Any:
        """Convert the inputs of a forward pass to the number format that is set."""
        return super().convert_input(data) if self.uses_bfloat16 else data

    def convert_output(self, data: Any) -> Any:
        """Convert the floating-point outputs of a forward pass to float32."""
        # Fabric's own method converts to the default dtype of the process.
        return tree_map_only(Tensor, _to_float32, data)


def _to_float32(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def set_precision(fabric: Fabric, precision: TrainingPrecision) -> None:
    """Set the number format of Fabric; no effect with `16-mixed`, which is fixed at the launch."""
    plugin = fabric.strategy.precision
    if isinstance(plugin, SwitchablePrecision):
        plugin.uses_bfloat16 = precision == "bf16-mixed"
