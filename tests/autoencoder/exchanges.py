"""What processes of a training run tell each other, without processes."""

from __future__ import annotations

import threading

import torch
from torch import Tensor


class Alone:
    """The exchange of one that is the only one."""

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        return value

    def all_gather(self, value: Tensor, dim: int) -> Tensor:
        del dim
        return value


class Between:
    """The exchange of one of several threads."""

    def __init__(self, rank: int, told: list[Tensor], barrier: threading.Barrier) -> None:
        self.rank, self.tensors, self.barrier = rank, told, barrier

    def everyone(self, mine: Tensor) -> list[Tensor]:
        self.tensors[self.rank] = mine
        self.barrier.wait(10)
        told = list(self.tensors)
        self.barrier.wait(10)
        return told

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        return torch.stack(self.everyone(value)).sum(0)

    def all_gather(self, value: Tensor, dim: int) -> Tensor:
        return torch.cat(self.everyone(value), dim)
