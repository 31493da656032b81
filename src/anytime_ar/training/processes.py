"""Starting the processes of a training run: by ourselves, or as a launcher has done already."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import Field

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.sampling import choose_device

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Processes(Config):
    """How many processes train, and what each does at once. Not a part of a run: it may change from
    one resumption to the next."""

    devices: int = Field(1, ge=1)
    """Of each machine, a process each; on CPUs, processes. Under `torchrun` it decides instead."""
    nodes: int = Field(1, ge=1)
    """Machines; each runs the same command with MASTER_ADDR, MASTER_PORT and its NODE_RANK set."""
    passes: int = Field(1, ge=1)
    """That a process takes over its part of a batch, whose gradients are accumulated: memory is
    needed for one of them."""

    @property
    def count(self) -> int:
        """All of them."""
        return self.devices * self.nodes


ONE = Processes()


def launched() -> Processes | None:
    """What a launcher such as `torchrun` has started; None: nothing."""
    if not {"LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"} <= os.environ.keys():
        return None
    devices, count = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return Processes(devices=devices, nodes=count // devices)


def is_first_process() -> bool:
    """Whether this process, of those that a launcher has started, is the one that writes."""
    return all(
        os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
    )


def start_processes(device: str, precision: str, processes: Processes) -> Fabric:
    """Fabric on the devices of this process, the others started as well.

    Raises:
        InputError: there is no such device, or fewer of them.
    """
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    chosen = choose_device(device)
    asked = launched() or processes
    several = asked.count > 1
    there = torch.accelerator.device_count() if chosen.type != "cpu" else asked.devices
    if asked.devices > there:
        raise InputError(
            f"devices is {asked.devices}, and this machine has {there} of {chosen.type}; ask for "
            "fewer"
        )
    fabric = Fabric(
        accelerator=chosen.type,
        devices=asked.devices if several or chosen.index is None else [chosen.index],
        num_nodes=asked.nodes,
        # Codebooks are kept alike by what processes exchange; DDP need not copy them in every step.
        strategy=DDPStrategy(forward_sync_buffers=False) if several else "auto",
        precision=precision,  # type: ignore[arg-type]
    )
    if several:
        fabric.launch()
    return fabric
