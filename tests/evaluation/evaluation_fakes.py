"""Tiny stand-ins: a labelled data set of noisy patterns, and a linear model with rounded codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

SHAPE = (1, 8, 8)
LENGTH = 6
LABELS = 4


class FakeBatch(NamedTuple):
    data: Tensor
    labels: Tensor | None


@dataclass
class FakeSplit:
    data: Tensor
    labels: Tensor | None
    sized: bool = True

    @property
    def size(self) -> int | None:
        return len(self.data) if self.sized else None

    def batches(self, batch_size: int) -> Iterator[FakeBatch]:
        return self._in_order(torch.arange(len(self.data)), batch_size)

    def shuffled(self, batch_size: int, seed: int) -> Iterator[FakeBatch]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.data), generator=generator)
            yield from self._in_order(order, batch_size)

    def _in_order(self, order: Tensor, batch_size: int) -> Iterator[FakeBatch]:
        for rows in order.split(batch_size):
            labels = None if self.labels is None else self.labels[rows]
            yield FakeBatch(self.data[rows], labels)


@dataclass
class FakeSplits:
    train: FakeSplit
    test: FakeSplit
    label_names: tuple[str, ...] | None = None


@dataclass
class FakeCodec:
    """Code i is the rounded coefficient along basis vector i; a prefix keeps the first vectors."""

    basis: Tensor  # [64, L]
    code_length: int = LENGTH
    vocabulary: int = 256
    sample_shape: tuple[int, ...] = SHAPE
    sample_rate: int | None = None
    encoded: int = 0

    def encode(self, x: Tensor) -> Tensor:
        self.encoded += len(x)
        coefficients = x.flatten(1) @ self.basis  # [B, L]
        return (coefficients * 16 + 128).round().clamp(0, 255).long()

    def decode(self, codes: Tensor) -> Tensor:
        coefficients = (codes.float() - 128) / 16  # [B, k]
        return (coefficients @ self.basis[:, : codes.shape[1]].T).view(-1, *SHAPE)


@dataclass
class FakeModel(FakeCodec):
    """Samples by encoding training data, so that its samples are as good as its codes."""

    source: Tensor = field(default_factory=lambda: torch.zeros(1, *SHAPE))
    draws: list[tuple[int, int | None, int]] = field(default_factory=list)
    can_sample: bool = True
    labels: tuple[str, ...] | None = None
    asked: Sequence[int] | None = None
    choices: list[dict[str, float]] = field(default_factory=list)
    scored: list[tuple[Tensor, Sequence[int] | None]] = field(default_factory=list)

    def sample_codes(
        self,
        n: int,
        *,
        codes: int | None = None,
        seed: int = 0,
        first: int = 0,
        label: Sequence[int] | None = None,
        **choice: float,
    ) -> Tensor:
        self.draws.append((n, codes, seed))
        self.asked = label
        self.choices.append(choice)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(0, len(self.source), (first + n,), generator=generator)[first:]
        coefficients = self.source[rows].flatten(1) @ self.basis
        return (coefficients * 16 + 128).round().clamp(0, 255).long()[:, :codes]

    def nll(self, codes: Tensor, *, label: Sequence[int] | None = None) -> Tensor:
        self.scored.append((codes, label))
        return (codes % 7).float()

    def sample(self, n: int, *, codes: int | None = None, seed: int = 0, **choice: float) -> Tensor:
        self.choices.append(choice)
        generator = torch.Generator().manual_seed(seed)
        k = self.code_length if codes is None else codes
        return self.decode(torch.randint(0, self.vocabulary, (n, k), generator=generator))


def patterns(count: int, seed: int) -> FakeSplit:
    """Each class is a smooth pattern, plus a little noise: images float32 [count, 1, 8, 8]."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    waves = torch.stack([rows, columns, rows + columns, rows - columns])
    patterns = 0.6 * torch.sin(0.8 * waves)  # [4, 8, 8]
    labels = torch.arange(count) % LABELS
    strength = 0.6 + 0.4 * torch.rand(count, 1, 1, generator=generator)
    noise = 0.05 * torch.randn(count, 8, 8, generator=generator)
    return FakeSplit((strength * patterns[labels] + noise)[:, None], labels)
