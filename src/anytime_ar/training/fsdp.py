"""Weights, gradients and moments in shards, one for each process (FSDP2): what memory holds of a
model is a share of it, and what a layer is made of is gathered where it computes.

Every parameter is cut along its first dimension and becomes a `DTensor`; buffers, above all
codebooks that follow averages, stay whole and alike in all processes: what they learn from is
exchanged (see `Quantizer.learn`), and they are small.

All processes have to gather alike, and at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from anytime_ar.autoencoder.networks.audio import AudioDecoder, AudioEncoder
from anytime_ar.autoencoder.networks.image import ImageDecoder, ImageEncoder
from anytime_ar.prior.transformer import Block
from anytime_ar.training.checkpoint import StateDict

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

FSDP_UNITS = (Block, ImageEncoder, ImageDecoder, AudioEncoder, AudioDecoder)
"""Gathered one at a time. Nobody reads their weights but they themselves, when they are called; all
else is gathered for the whole of a forward pass, as objectives call methods of what they train and
read weights that lie deep inside."""


def device_mesh(fabric: Fabric) -> DeviceMesh | None:
    """The processes among which weights are cut; None: each has all of them."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    if not isinstance(fabric.strategy, ModelParallelStrategy):
        return None
    return fabric.strategy.device_mesh["data_parallel"]


def apply_fsdp(module: nn.Module, mesh: DeviceMesh) -> None:
    """Leave this process its shards of a module's weights, on its device. What follows has to go
    through the module's own forward pass, not that of a part of it."""
    from torch.distributed.fsdp import fully_shard

    for parameter in module.parameters():  # kernels are not, where channels come last
        parameter.data = parameter.data.contiguous()
    for unit in [one for one in module.modules() if isinstance(one, FSDP_UNITS)]:
        fully_shard(unit, mesh=mesh)
    fully_shard(module, mesh=mesh)


def is_sharded(value: Tensor) -> TypeGuard[DTensor]:
    """Whether this process has a part of it only."""
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def full_tensor(value: Tensor) -> Tensor:
    """A tensor, put together if it is in shards."""
    return value.full_tensor() if is_sharded(value) else value


def gather_full_state(state: StateDict, *, keep: bool) -> StateDict:
    """Whole tensors, on the CPU where they were in shards.

    Args:
        keep: whether this process wants them; if not, what it gets is of no use.
    """
    found: StateDict = {}
    for name in sorted(state):  # what was read from a file is in another order in each process
        full = full_tensor(state[name])
        if keep:
            found[name] = full if full is state[name] else full.cpu()
    return {name: found[name] for name in state if keep}


def shard_like(value: Tensor, like: Tensor | None) -> Tensor:
    """This process's shard of a whole tensor, if another one is in shards."""
    from torch.distributed.tensor import distribute_tensor

    if like is None or not is_sharded(like) or value.shape != like.shape:
        return value
    # No rank is the source: all have read the same.
    return distribute_tensor(
        value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def shard_state(state: StateDict, like: StateDict) -> StateDict:
    """`shard_like` for each tensor, by name."""
    return {name: shard_like(value, like.get(name)) for name, value in state.items()}


@torch.no_grad()
def copy_full_state(module: nn.Module, state: StateDict) -> None:
    """Give a module that is whole the weights of one in shards, a tensor at a time."""
    for name, value in module.state_dict().items():
        value.copy_(full_tensor(state[name]))


@contextmanager
def summon_full_params(module: nn.Module) -> Iterator[None]:
    """Put the parameters of a module together for something that writes to them, and cut them
    again."""
    names = [name for name, parameter in module.named_parameters() if is_sharded(parameter)]
    sharded = {name: module.get_parameter(name) for name in names}
    standing_in = {name: nn.Parameter(full_tensor(one.detach())) for name, one in sharded.items()}
    _set_parameters(module, standing_in)
    try:
        yield
    finally:
        _set_parameters(module, sharded)
        with torch.no_grad():
            for name, parameter in sharded.items():
                parameter.copy_(shard_like(standing_in[name].detach(), parameter))


def _set_parameters(module: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        path, _, last = name.rpartition(".")
        setattr(module.get_submodule(path), last, parameter)
