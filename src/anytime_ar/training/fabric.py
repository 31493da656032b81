"""Start of Fabric and of the processes of a run, with a number format that each stage sets.

Only functions import this module, because it imports Fabric, which is slow.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, distributed
from torch.utils._pytree import tree_map_only

from anytime_ar.errors import InputError
from anytime_ar.runtime.devices import disable_memory_trimming, resolve_device
from anytime_ar.runtime.mixed_precision import bfloat16_autocast
from anytime_ar.training.config import DistributedConfig, TrainingPrecision, torchrun_config


def launch_fabric(device: str, precision: str, distributed_config: DistributedConfig) -> Fabric:
    """Return Fabric on the device of this process, and start the other processes.

    Args:
        device: Name of the device, or `auto`.
        precision: Precision of the run, `auto` or a name of Fabric; see `SwitchablePrecision`.
        distributed_config: Number of processes and their strategy.

    Raises:
        InputError: There is no such device, or there are too few of them, or the strategy does not
            support the precision.
    """
    chosen = resolve_device(device)
    if chosen.type == "cpu":
        disable_memory_trimming()
    asked = torchrun_config() or distributed_config
    several = asked.world_size > 1
    there = torch.accelerator.device_count() if chosen.type != "cpu" else asked.devices
    if asked.devices > there:
        raise InputError(
            f"devices is {asked.devices}, and this machine has {there} of {chosen.type}; ask for "
            "fewer"
        )
    if several and asked.devices > 1 and not _is_launched() and not _can_run_again():
        raise InputError(
            f"devices is {asked.devices}, which starts this program again for each device, and "
            "there is no file to start, as in a notebook or `python -c`; save the program as a "
            "file, use `anytime train`, or devices=1"
        )
    # Fabric has one precision for a run. A plugin lets stages switch it, except 16-mixed, which
    # needs Fabric's loss scaler.
    scaled = precision == "16-mixed" and chosen.type != "cpu"
    plugins: list[Any] = [] if scaled else [SwitchablePrecision(chosen.type)]
    if distributed.is_initialized():  # ignore what environment variables say of a launcher
        plugins.append(LightningEnvironment())
    fabric = Fabric(
        accelerator=chosen.type,
        devices=asked.devices if chosen.index is None or asked.devices > 1 else [chosen.index],
        num_nodes=asked.nodes,
        strategy=_strategy(distributed_config.strategy, asked.world_size, precision)
        if several
        else "auto",
        plugins=plugins,
        precision="16-mixed" if scaled else None,
    )
    if several:
        fabric.launch()
    return fabric


def _is_launched() -> bool:
    """Return whether this process is one of several already."""
    return distributed.is_initialized() or "LOCAL_RANK" in os.environ


def _can_run_again() -> bool:
    """Return whether the program of this process is a file or a module, which can be run again."""
    main = sys.modules["__main__"]
    is_notebook = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    return not is_notebook and (main.__spec__ is not None or Path(sys.argv[0]).is_file())


def _strategy(name: Literal["ddp", "fsdp"], count: int, precision: str) -> Any:
    if name == "ddp":
        # `Quantizer.update_codebooks` synchronises codebooks: DDP need not copy them.
        return DDPStrategy(forward_sync_buffers=False)
    if precision == "16-mixed":  # Fabric does not scale the losses of sharded models
        raise InputError(
            "precision is 16-mixed, which strategy fsdp cannot do; set it to bf16-mixed or "
            "32-true, or choose strategy ddp"
        )
    # `apply_fsdp` has sharded the module before, as the optimizer must be built on the shards.
    return ModelParallelStrategy(
        lambda module, _: module, data_parallel_size=count, tensor_parallel_size=1
    )


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
