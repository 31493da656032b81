"""Optimizers of the stages and the schedule of their learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from anytime_ar.training.checkpoint import StateDict
from anytime_ar.training.config import OptimizerConfig
from anytime_ar.training.fsdp import full_tensor, is_sharded, shard_like

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def learning_rate_at(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the learning rate at a step: linear warm-up times cosine decay to zero.

    Args:
        config: Peak learning rate and length of the warm-up.
        step: Step of the stage, from 0.
        steps: Number of steps of the stage.
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build AdamW for all parameters, or Muon for linear weights and AdamW for the rest.

    Only the weights of linear layers and convolutions decay. Weights that an output layer shares
    with an embedding count as those of an embedding.
    """
    tables = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    matrices = [
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Linear) and id(layer.weight) not in tables
    ]
    kernels = [layer.weight for layer in module.modules() if isinstance(layer, _CONVOLUTIONS)]
    chosen = {id(weight) for weight in [*matrices, *kernels]}
    others = [weight for weight in module.parameters() if id(weight) not in chosen]
    by_muon = matrices if config.kind == "muon" else []
    groups: list[dict[str, Any]] = [
        {
            "params": kernels if by_muon else [*matrices, *kernels],
            "weight_decay": config.weight_decay,
        },
        {"params": others, "weight_decay": 0.0},
    ]
    betas = config.beta1, config.beta2
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas)
    if not by_muon:
        return adamw
    in_shards = any(map(is_sharded, by_muon))
    muon = (ShardedMuon if in_shards else torch.optim.Muon)(
        by_muon,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",  # one learning rate suits both optimizers
    )
    return ChainedOptimizer(muon, adamw)


class ShardedMuon(torch.optim.Muon):
    """Muon with Nesterov momentum for sharded matrices.

    Weights and momentum stay sharded. Orthogonalisation needs full updates, which are gathered one
    at a time.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update_weight(matrix, group)

    def _update_weight(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        state, gradient, momentum = self.state[weight], weight.grad, group["momentum"]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = full_tensor(gradient.lerp(state["momentum_buffer"], momentum))
        # A step of torch's Muon from a matrix of zeros yields the update alone.
        step = nn.Parameter(torch.zeros_like(update))
        step.grad = update
        options = {name: group[name] for name in ("lr", "ns_steps", "eps", "adjust_lr_fn")}
        torch.optim.Muon([step], weight_decay=0, momentum=0, nesterov=False, **options).step()
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(shard_like(step.detach(), weight))


class ChainedOptimizer(torch.optim.Optimizer):
    """An optimizer that combines several, each with its own parameters."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        """Combine the parameter groups of the optimizers, in their order."""
        self.optimizers = optimizers
        super().__init__([group for part in optimizers for group in part.param_groups], {})
        self._share_param_groups()

    def _share_param_groups(self) -> None:
        """Let the combined optimizers use the parameter groups and the state of this one."""
        groups = iter(self.param_groups)
        for part in self.optimizers:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of each optimizer."""
        assert closure is None
        for part in self.optimizers:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        super().load_state_dict(state_dict)
        self._share_param_groups()


def optimizer_state_tensors(optimizer: torch.optim.Optimizer) -> StateDict:
    """Return the state of an optimizer as flat tensors, by names such as `3.exp_avg`."""
    return {
        f"{number}.{name}": value
        for number, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: StateDict) -> None:
    """Restore an optimizer's state from `optimizer_state_tensors`, sharded as its parameters."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    moments: dict[int, StateDict] = {}
    for key, value in state.items():
        number, _, name = key.partition(".")
        of = parameters[int(number)]
        moments.setdefault(int(number), {})[name] = shard_like(value, of)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
