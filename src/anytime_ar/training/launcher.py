"""Start of the processes of a training run, by Fabric or by a launcher such as `torchrun`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.runtime.devices import disable_memory_trimming, resolve_device

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class DistributedConfig(Config):
    """Number of training processes, and how they share batches and weights.

    It is no part of the configuration of a run: it may change whenever the run resumes.
    """

    devices: int = Field(1, ge=1, le=2**16)
    """Processes on each machine, one per device; under `torchrun`, its settings apply instead."""
    nodes: int = Field(1, ge=1, le=2**16)
    """Number of machines.

    Each runs the same command, with MASTER_ADDR, MASTER_PORT and its own NODE_RANK set.
    """
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Microbatches into which each process splits its batch shard, to save memory.

    Their gradients are accumulated, so the number does not change the batch.
    """

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several processes hold the weights; checkpoints are the same for both.

    `ddp`: each process holds all weights. `fsdp`: weights, gradients and optimizer states are
    sharded, for models that are too large to train on one device. For validation, each process
    gathers the full weights.
    """

    @property
    def world_size(self) -> int:
        """Return the number of processes on all machines."""
        return self.devices * self.nodes


SINGLE_PROCESS = DistributedConfig()
"""Configuration of a run with one process."""


def torchrun_config() -> DistributedConfig | None:
    """Return the configuration of a launcher such as `torchrun`; None: there is no launcher."""
    if not {"LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"} <= os.environ.keys():
        return None
    devices, count = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return DistributedConfig(devices=devices, nodes=count // devices)


def is_rank_zero_process() -> bool:
    """Return whether this process has rank zero among those of a launcher, and so writes files."""
    return all(
        os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
    )


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
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from torch import distributed

    from anytime_ar.training.fabric_precision import SwitchablePrecision

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


def _strategy(name: Literal["ddp", "fsdp"], count: int, precision: str) -> Any:
    if name == "ddp":
        from lightning_fabric.strategies.ddp import DDPStrategy

        # `Quantizer.update_codebooks` synchronises codebooks: DDP need not copy them.
        return DDPStrategy(forward_sync_buffers=False)
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    if precision == "16-mixed":  # Fabric does not scale the losses of sharded models
        raise InputError(
            "precision is 16-mixed, which strategy fsdp cannot do; set it to bf16-mixed or "
            "32-true, or choose strategy ddp"
        )
    # `apply_fsdp` has sharded the module before, as the optimizer must be built on the shards.
    return ModelParallelStrategy(
        lambda module, _: module, data_parallel_size=count, tensor_parallel_size=1
    )
