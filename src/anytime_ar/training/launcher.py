"""Starting the processes of a training run: by ourselves, or as a launcher has done already."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.runtime.devices import resolve_device
from anytime_ar.runtime.memory import disable_memory_trimming

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class DistributedConfig(Config):
    """How many processes train, and what each does at once. Not a part of a run: it may change from
    one resumption to the next."""

    devices: int = Field(1, ge=1, le=2**16)
    """Of each machine, a process each; on CPUs, processes. Under `torchrun` it decides instead."""
    nodes: int = Field(1, ge=1, le=2**16)
    """Machines; each runs the same command with MASTER_ADDR, MASTER_PORT and its NODE_RANK set."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """That a process takes over its part of a batch, whose gradients are accumulated: memory is
    needed for one of them."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Of several processes: `ddp`: each has all weights; `fsdp`: weights, gradients and moments are
    in shards, for models that one device has no room to train (to be judged, weights alone are
    whole). Checkpoints are the same."""

    @property
    def world_size(self) -> int:
        """All of them."""
        return self.devices * self.nodes


SINGLE_PROCESS = DistributedConfig()


def torchrun_config() -> DistributedConfig | None:
    """What a launcher such as `torchrun` has started; None: nothing."""
    if not {"LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"} <= os.environ.keys():
        return None
    devices, count = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return DistributedConfig(devices=devices, nodes=count // devices)


def is_rank_zero_process() -> bool:
    """Whether this process, of those that a launcher has started, is the one that writes."""
    return all(
        os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
    )


def launch_fabric(device: str, precision: str, distributed_config: DistributedConfig) -> Fabric:
    """Return Fabric on the devices of this process, and start the other processes.

    Args:
        device: name, or `auto`.
        precision: of the run, `auto` or as Fabric calls it; see `SwitchablePrecision`.
        distributed_config: how many there are.

    Raises:
        InputError: there is no such device, or fewer of them, or the precision does not go with the
            strategy.
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
    # Fabric has one precision for a run; stages choose theirs, but for the one that scales losses.
    scaled = precision == "16-mixed" and chosen.type != "cpu"
    plugins: list[Any] = [] if scaled else [SwitchablePrecision(chosen.type)]
    if distributed.is_initialized():  # processes have met: no other sign of a launcher counts
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

        # Codebooks are kept alike by what processes exchange; DDP need not copy them in every step.
        return DDPStrategy(forward_sync_buffers=False)
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    if precision == "16-mixed":  # Fabric does not scale the losses of sharded models
        raise InputError(
            "precision is 16-mixed, which strategy fsdp cannot do; set it to bf16-mixed or "
            "32-true, or choose strategy ddp"
        )
    # What is trained is in shards already when it is set up: an optimizer has to know them.
    return ModelParallelStrategy(
        lambda module, _: module, data_parallel_size=count, tensor_parallel_size=1
    )
