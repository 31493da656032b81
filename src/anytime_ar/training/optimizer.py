"""The optimizer of every stage and its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from anytime_ar.training.checkpoint import State
from anytime_ar.training.config import OptimizerConfig
from anytime_ar.training.sharding import cut_like, is_sharded, whole

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def learning_rate(options: OptimizerConfig, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm = min(1.0, (step + 1) / max(1, options.warmup_steps))
    return options.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def optimizer_for(module: nn.Module, options: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, or Muon for matrices and AdamW for the rest; the weights of linear maps and
    convolutions alone decay."""
    matrices = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
    kernels = [layer.weight for layer in module.modules() if isinstance(layer, _CONVOLUTIONS)]
    chosen = {id(weight) for weight in [*matrices, *kernels]}
    others = [weight for weight in module.parameters() if id(weight) not in chosen]
    by_muon = matrices if options.matrices == "muon" else []
    groups: list[dict[str, Any]] = [
        {
            "params": kernels if by_muon else [*matrices, *kernels],
            "weight_decay": options.weight_decay,
        },
        {"params": others, "weight_decay": 0.0},
    ]
    betas = options.beta1, options.beta2
    adamw = torch.optim.AdamW(groups, lr=options.learning_rate, betas=betas)
    if not by_muon:
        return adamw
    in_shards = any(map(is_sharded, by_muon))
    muon = (GatheringMuon if in_shards else torch.optim.Muon)(
        by_muon,
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        adjust_lr_fn="match_rms_adamw",  # so that one learning rate suits both
    )
    return Together(muon, adamw)


class GatheringMuon(torch.optim.Muon):
    """Muon, with Nesterov momentum, for matrices in shards: weights and momentum stay so, and what
    is to be made orthogonal, which takes a whole matrix, is gathered, one at a time."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of each matrix."""
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, group)

    def _move(self, matrix: nn.Parameter, group: dict[str, Any]) -> None:
        state, gradient, momentum = self.state[matrix], matrix.grad, group["momentum"]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = whole(gradient.lerp(state["momentum_buffer"], momentum))
        # Torch's own step of a matrix of zeros, and nothing but the step.
        step = nn.Parameter(torch.zeros_like(update))
        step.grad = update
        options = {name: group[name] for name in ("lr", "ns_steps", "eps", "adjust_lr_fn")}
        torch.optim.Muon([step], weight_decay=0, momentum=0, nesterov=False, **options).step()
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(cut_like(step.detach(), matrix))


class Together(torch.optim.Optimizer):
    """Several optimizers, each of its own parameters, as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The parts work on the groups and the state of the whole."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of each."""
        assert closure is None
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """The moments of an optimizer as flat tensors, by parameter number and name."""
    return {
        f"{number}.{name}": value
        for number, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Give an optimizer the moments of `optimizer_state`."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    moments: dict[int, State] = {}
    for key, value in state.items():
        number, _, name = key.partition(".")
        of = parameters[int(number)]
        moments.setdefault(int(number), {})[name] = cut_like(value, of)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
