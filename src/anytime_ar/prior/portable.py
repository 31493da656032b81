"""The decode path in PyTorch's operations, for every device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.ambient import defaults
from anytime_ar.prior.cache import KVCache, attend
from anytime_ar.prior.choice import choose_by_row
from anytime_ar.prior.decoder import Decoder, Precision
from anytime_ar.prior.linear import Linear, lay_out
from anytime_ar.prior.rows import Rows
from anytime_ar.prior.transformer import Block, Prior


class PortableDecoder(Decoder[Rows[KVCache]]):
    """See `Decoder`."""

    @defaults()
    def __init__(self, prior: Prior, precision: Precision = "float32") -> None:
        super().__init__(prior, precision)
        self._heads = prior.config.heads
        self._blocks = [_Block.of(block, precision) for block in prior.blocks]
        self._norm = _Norm.of(prior.norm)
        tables = self._entries.unflatten(0, (-1, self.vocabulary))
        scores = [
            lay_out(table, bias, precision)
            for table, bias in zip(tables, prior.entry_bias, strict=True)
        ]
        self._scores = [scores[table] for table in prior.tables.tolist()]  # by position

    @defaults()
    def step(self, rows: Rows[KVCache], count: int) -> None:
        logits = self.score(rows, count).to(rows.noise.device)
        at = _numbers(rows.positions[:count], logits.device)[:, None]  # [count, 1]
        noise = rows.noise[:count].gather(1, at)[:, 0]
        chosen = choose_by_row(logits, noise, rows.choices)
        rows.codes[:count].scatter_(1, at, chosen[:, None])
        for slot in range(count):
            rows.positions[slot] += 1

    @defaults()
    def score(self, rows: Rows[KVCache], count: int) -> Tensor:
        positions, cache = rows.positions[:count], rows.cache
        cache.reserve(max(positions) + 1)
        place = _Place.of(positions, cache, self.device)
        x = self._inputs(rows, 0, positions)
        for block, stored in zip(self._blocks, cache.layers, strict=True):
            x = block.step(x, stored[:, :count], place)
        return self._score(self._norm(x), place)

    @defaults()
    def replay(self, rows: Rows[KVCache], first: int, count: int) -> None:
        drawn, cache = rows.positions[first], rows.cache
        cache.reserve(drawn)
        by_position = [[position] * count for position in range(drawn)]
        x = torch.cat([self._inputs(rows, first, positions) for positions in by_position])
        places = [_Place.of(positions, cache, self.device) for positions in by_position]
        for block, stored in zip(self._blocks, cache.layers, strict=True):
            x = block.replay(x, stored[:, first : first + count], places)

    @defaults()
    def multiply_only(self, rows: int) -> None:
        narrow, wide = self._entries.shape[1], self._blocks[0].hidden
        dtype = self._scores[0].dtype
        x = torch.ones(rows, narrow, dtype=dtype, device=self.device)
        hidden = torch.ones(rows, wide, dtype=dtype, device=self.device)
        for score in self._scores:
            for block in self._blocks:
                block.qkv(x)
                block.out(x)
                block.up(x)
                block.down(hidden)
            score(x)

    def _new_rows(self, rows: int) -> Rows[KVCache]:
        # Codes are chosen in float64, which Apple's GPUs do not have.
        chooses_on = torch.device("cpu") if self.device.type == "mps" else self.device
        return Rows(self._new_cache(rows, self.device), self.code_length, chooses_on)

    def _new_cache(self, rows: int, device: torch.device) -> KVCache:
        head_width = self._entries.shape[1] // self._heads
        layers, heads = len(self._blocks), self._heads
        return KVCache(layers, rows, heads, self.code_length, head_width, device)

    def _inputs(self, rows: Rows[KVCache], first: int, positions: Sequence[int]) -> Tensor:
        """What the first block sees of the rows from `first` on, at these positions: [B, E]."""
        here = slice(first, first + len(positions))
        labels, codes = rows.labels[here].to(self.device), rows.codes[here].to(self.device)
        if max(positions) == 0:
            return self._first[labels]
        if min(positions) == max(positions):
            at = positions[0]
            return self._embed(codes[:, at - 1], at, labels)
        mixed = _numbers(positions, self.device)
        before = codes.gather(1, (mixed - 1).clamp(min=0)[:, None])[:, 0]
        later = self._embed(before, mixed.clamp(min=1), labels)
        return torch.where(mixed[:, None] == 0, self._first[labels], later)

    def _embed(self, codes: Tensor, positions: int | Tensor, labels: Tensor) -> Tensor:
        """Codes int64 [B] before `positions` (1..L-1, one or [B]) -> float32 [B, E]."""
        entries = self._entries[codes + self._tables[positions - 1] * self.vocabulary]
        x = entries + self._positions[positions]
        return x if self._reminders is None else x + self._reminders[labels]

    def _score(self, x: Tensor, place: _Place) -> Tensor:
        x = x.to(self._scores[0].dtype)
        if place.everywhere is not None:
            return self._scores[place.everywhere](x).float()
        logits = x.new_empty(len(x), self.vocabulary, dtype=torch.float32)
        for position, rows in place.groups().items():
            logits[rows] = self._scores[position](x[rows]).float()
        return logits


@dataclass(frozen=True)
class _Place:
    """Where the rows of one step stand."""

    positions: Sequence[int]
    everywhere: int | None
    """The position of all rows; None if they differ."""
    index: Tensor
    """int64 [B], the same on the device; empty if all rows stand at one position."""
    mask: Tensor
    """float32 [1 or B * heads, 1, T]: -inf for what lies after a row's position."""

    @classmethod
    def of(cls, positions: Sequence[int], cache: KVCache, device: torch.device) -> _Place:
        heads, length = cache.layers[0].shape[2:4]
        if min(positions) == max(positions):
            mask = torch.zeros(1, 1, length, dtype=torch.float32, device=device)
            mask[:, :, positions[0] + 1 :] = -torch.inf
            return cls(positions, positions[0], _numbers([], device), mask)
        index = _numbers(positions, device)
        later = torch.arange(length, dtype=torch.int64, device=device) > index[:, None]  # [B, T]
        mask = torch.zeros(later.shape, dtype=torch.float32, device=device)
        mask = mask.masked_fill_(later, -torch.inf)
        return cls(positions, None, index, mask.repeat_interleave(heads, 0)[:, None])

    def write(self, stored: Tensor, kv: Tensor) -> None:
        """Put keys and values [2, B, heads, head_width] into [2, B, heads, T, head_width]."""
        if self.everywhere is not None:
            stored[:, :, :, self.everywhere] = kv
        else:
            rows = torch.arange(len(self.index), dtype=torch.int64, device=self.index.device)
            stored[:, rows, :, self.index] = kv.transpose(0, 1).to(stored.dtype)

    def groups(self) -> dict[int, list[int]]:
        """Rows by position."""
        groups: dict[int, list[int]] = {}
        for row, position in enumerate(self.positions):
            groups.setdefault(position, []).append(row)
        return groups


def _numbers(positions: Sequence[int], device: torch.device) -> Tensor:
    """int64 [B]."""
    return torch.tensor(positions, dtype=torch.int64, device=device)


@dataclass(frozen=True)
class _Norm:
    """Layer norm of float32 [B, E]."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: torch.nn.LayerNorm) -> _Norm:
        return cls(norm.weight.detach(), norm.bias.detach(), norm.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class _Block:
    """One block of the Transformer, laid out."""

    heads: int
    hidden: int
    """Width inside the feed-forward block."""
    norm1: _Norm
    qkv: Linear
    out: Linear
    norm2: _Norm
    up: Linear
    down: Linear

    @classmethod
    def of(cls, block: torch.nn.Module, precision: Precision) -> _Block:
        assert isinstance(block, Block)
        width = block.out.in_features
        weight = block.qkv.weight.detach().clone()
        weight[:width] *= (width // block.heads) ** -0.5  # attention scales queries by this
        return cls(
            block.heads,
            block.up.out_features,
            _Norm.of(block.norm1),
            lay_out(weight, None, precision),
            lay_out(block.out.weight, None, precision),
            _Norm.of(block.norm2),
            lay_out(block.up.weight, block.up.bias, precision, gelu=True),
            lay_out(block.down.weight, block.down.bias, precision),
        )

    def step(self, x: Tensor, stored: Tensor, place: _Place) -> Tensor:
        """float32 [B, E] -> [B, E], with the cache float32 [2, B, heads, T, head_width]."""
        return self._finish(x, self._attend(self._project(x), stored, place))

    def replay(self, x: Tensor, stored: Tensor, places: Sequence[_Place]) -> Tensor:
        """Several positions at once: float32 [k * B, E], by position, -> [k * B, E]."""
        attended = [
            self._attend(qkv, stored, place)
            for place, qkv in zip(places, self._project(x).split(stored.shape[1]), strict=True)
        ]
        return self._finish(x, torch.cat(attended))

    def _project(self, x: Tensor) -> Tensor:
        """Queries, keys and values: [B, E] -> [B, 3, heads, head_width]."""
        return self.qkv(self.norm1(x).to(self.qkv.dtype)).unflatten(-1, (3, self.heads, -1))

    def _attend(self, qkv: Tensor, stored: Tensor, place: _Place) -> Tensor:
        place.write(stored, qkv[:, 1:].transpose(0, 1))
        return attend(qkv[:, 0].float(), stored[0], stored[1], place.mask)

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        dtype = self.qkv.dtype
        x = x + self.out(attended.to(dtype))
        return x + self.down(self.up(self.norm2(x).to(dtype)))
