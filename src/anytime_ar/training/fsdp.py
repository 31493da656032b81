"""Sharded training (FSDP2): each process holds a shard of weights, gradients and optimizer states.

Every parameter is split along its first dimension and becomes a `DTensor`. The full parameters of a
layer are gathered while it computes. Buffers, such as codebooks updated by moving averages, are
small and stay full and equal in all processes (see `Quantizer.update_codebooks`).

Gathering is a collective operation: all processes must call it, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from anytime_ar.autoencoder.networks import AudioDecoder, AudioEncoder, ImageDecoder, ImageEncoder
from anytime_ar.prior.block import Block
from anytime_ar.training.checkpoint import StateDict

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

FSDP_UNITS = (Block, ImageEncoder, ImageDecoder, AudioEncoder, AudioDecoder)
"""Modules that are gathered one at a time, because only their own forward pass reads their weights.

All other parameters are gathered for a whole forward pass: objectives call methods of the models
and read nested weights.
"""


def device_mesh(fabric: Fabric) -> DeviceMesh | None:
    """Return the processes between which weights are sharded; None: each holds all weights."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    if not isinstance(fabric.strategy, ModelParallelStrategy):
        return None
    return fabric.strategy.device_mesh["data_parallel"]


def apply_fsdp(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the weights of a module, in place and on the device of this process.

    From then on, call the forward pass of the whole module, not that of a submodule.
    """
    from torch.distributed.fsdp import fully_shard

    for parameter in module.parameters():  # channels_last kernels are not
        parameter.data = parameter.data.contiguous()
    for unit in [one for one in module.modules() if isinstance(one, FSDP_UNITS)]:
        fully_shard(unit, mesh=mesh)
    fully_shard(module, mesh=mesh)


def is_sharded(value: Tensor) -> TypeGuard[DTensor]:
    """Return whether a tensor is sharded between the processes."""
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def full_tensor(value: Tensor) -> Tensor:
    """Return the full tensor, gathered if it is sharded."""
    return value.full_tensor() if is_sharded(value) else value


def gather_full_state(state: StateDict, *, keep: bool) -> StateDict:
    """Gather the full tensors of a state; those that were sharded go to the CPU.

    Args:
        state: Tensors by name, sharded or not.
        keep: Whether this process gets the result; otherwise it gets an empty state.
    """
    found: StateDict = {}
    for name in sorted(state):  # a state read from a file has another order in each process
        full = full_tensor(state[name])
        if keep:
            found[name] = full if full is state[name] else full.cpu()
    return {name: found[name] for name in state if keep}


def shard_like(value: Tensor, like: Tensor | None) -> Tensor:
    """Shard a full tensor as `like` is sharded; return it unchanged if `like` is not."""
    from torch.distributed.tensor import distribute_tensor

    if like is None or not is_sharded(like) or value.shape != like.shape:
        return value
    # No rank broadcasts its values, because all have read the same file.
    return distribute_tensor(
        value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def shard_state(state: StateDict, like: StateDict) -> StateDict:
    """Shard each full tensor as the tensor of its name in `like` is sharded."""
    return {name: shard_like(value, like.get(name)) for name, value in state.items()}


@torch.no_grad()
def copy_full_state(module: nn.Module, state: StateDict) -> None:
    """Copy a sharded state into a module with full weights, one tensor at a time."""
    for name, value in module.state_dict().items():
        value.copy_(full_tensor(state[name]))


@contextmanager
def summon_full_params(module: nn.Module) -> Iterator[None]:
    """Gather the full parameters of a module for code that writes to them, then reshard them."""
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
