"""What processes of a training run tell each other, without processes."""

from __future__ import annotations

import threading

import torch
from torch import Tensor


class Alone:
    """The exchange of one that is the only one."""

    def sum(self, mine: Tensor) -> Tensor:
        return mine

    def concatenate(self, mine: Tensor, dim: int) -> Tensor:
        del dim
        return mine


class Between:
    """The exchange of one of several threads."""

    def __init__(self, rank: int, told: list[Tensor], barrier: threading.Barrier) -> None:
        self.rank, self.told, self.barrier = rank, told, barrier

    def everyone(self, mine: Tensor) -> list[Tensor]:
        self.told[self.rank] = mine
        self.barrier.wait(10)
        told = list(self.told)
        self.barrier.wait(10)
        return told

    def sum(self, mine: Tensor) -> Tensor:
        return torch.stack(self.everyone(mine)).sum(0)

    def concatenate(self, mine: Tensor, dim: int) -> Tensor:
        return torch.cat(self.everyone(mine), dim)
