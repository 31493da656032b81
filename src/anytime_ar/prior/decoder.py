"""The decode path of a prior: one code for every row of a batch, from cached keys and values.

The same distribution as `Prior.forward`, with weights laid out for products with few rows and
nothing computed in a step that could be computed before it. Letters as in `transformer`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.prior.cache import KVCache, attend
from anytime_ar.prior.linear import Linear, Precision, lay_out
from anytime_ar.prior.transformer import Block, Prior

SPARE_BYTES = 2**28
"""The most memory that is held between draws."""


class Decoder:
    """A prior laid out for drawing; to be made anew when the prior's weights have changed.

    Every row of a batch may stand at a position of its own, and gets the logits that it would get
    alone.

    Args:
        prior: in evaluation mode, on the device to draw on.
        precision: what weights and inputs of matrix products are rounded to; sums, norms,
            attention and the residual stream stay in float32.
    """

    @torch.no_grad()
    def __init__(self, prior: Prior, precision: Precision = "float32") -> None:
        self.precision = precision
        self.code_length, self.vocabulary = prior.code_length, prior.vocabulary
        self.no_label = prior.no_label
        self.device = prior.entries.weight.device
        self._spare: KVCache | None = None
        self._lock = threading.Lock()
        self._heads = prior.config.heads
        self._entries, self._positions = prior.entries.weight.detach(), prior.positions.detach()
        self._first = prior.start.weight.detach() + self._positions[0]  # [labels + 1, E]
        self._blocks = [_Block.of(block, precision) for block in prior.blocks]
        self._norm = _Norm.of(prior.norm)
        tables = self._entries.unflatten(0, (self.code_length, self.vocabulary))
        self._scores = [
            lay_out(table, bias, precision)
            for table, bias in zip(tables, prior.entry_bias, strict=True)
        ]

    def allocate(self, rows: int) -> KVCache:
        """An empty cache for `rows` rows."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None and spare.rows == rows:
            spare.clear()
            return spare
        return self._cache(rows, self.device)

    def release(self, cache: KVCache) -> None:
        """Take back a cache that nobody uses any more: the next draw of its size gets it, because
        memory that is fresh from the system costs as much time as a good part of the draw."""
        if cache.row_bytes * cache.rows <= SPARE_BYTES:
            with self._lock:
                self._spare = cache

    @property
    def row_bytes(self) -> int:
        """Memory that the cache takes for one row."""
        return self._cache(1, torch.device("meta")).row_bytes

    def _cache(self, rows: int, device: torch.device) -> KVCache:
        head_width = self._entries.shape[1] // self._heads
        return KVCache(len(self._blocks), rows, self._heads, self.code_length, head_width, device)

    def first_inputs(self, labels: Tensor) -> Tensor:
        """Inputs at position 0: labels int64 [B] in 0..no_label -> float32 [B, E]."""
        return self._first[labels]

    def next_inputs(self, codes: Tensor, positions: int | Tensor) -> Tensor:
        """Inputs at `positions` (1..L-1, one or [B]) from the codes before: int64 [B] ->
        float32 [B, E]."""
        rows = codes + (positions - 1) * self.vocabulary
        return self._entries[rows] + self._positions[positions]

    @torch.no_grad()
    def step(self, cache: KVCache, inputs: Tensor, positions: Sequence[int]) -> Tensor:
        """Logits of each row's code at its position, after writing what it sees into the cache.

        Args:
            cache: row i is filled below `positions[i]`; updated in place.
            inputs: float32 [B, E], see `first_inputs` and `next_inputs`.
            positions: B numbers in 0..L-1.

        Returns:
            float32 [B, V], equal to `Prior.forward(codes)[i, positions[i]]` up to rounding.
        """
        cache.reserve(max(positions) + 1)
        place = _Place.of(positions, cache, self.device)
        x = inputs
        for block, stored in zip(self._blocks, cache.layers, strict=True):
            x = block.step(x, stored[:, : len(x)], place)
        return self._score(self._norm(x), place)

    @torch.no_grad()
    def replay(self, cache: KVCache, row: int, first: Tensor, codes: Tensor) -> None:
        """Fill the cache as if `codes` had been drawn, bit for bit, but faster than in steps.

        Args:
            cache: rows `row` to `row + B` are written at positions 0..k-1.
            row: the first row to write.
            first: float32 [B, E], see `first_inputs`.
            codes: int64 [B, k], 1 <= k <= L.
        """
        batch, drawn = codes.shape
        cache.reserve(drawn)
        at = torch.arange(1, drawn, device=self.device)
        later = self.next_inputs(codes[:, :-1].T.flatten(), at.repeat_interleave(batch))
        x = torch.cat([first, later])  # [k * B, E], by position
        places = [_Place.of([position] * batch, cache, self.device) for position in range(drawn)]
        for block, stored in zip(self._blocks, cache.layers, strict=True):
            x = block.replay(x, stored[:, row : row + batch], places)

    @torch.no_grad()
    def multiply_only(self, rows: int) -> None:
        """The matrix products of a complete draw of `rows` rows and nothing else: the floor that
        drawing is measured against."""
        narrow, wide = self._entries.shape[1], self._blocks[0].hidden
        dtype = self._scores[0].dtype
        x, hidden = torch.ones(rows, narrow, dtype=dtype), torch.ones(rows, wide, dtype=dtype)
        x, hidden = x.to(self.device), hidden.to(self.device)
        for score in self._scores:
            for block in self._blocks:
                block.qkv(x)
                block.out(x)
                block.up(x)
                block.down(hidden)
            score(x)

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
            mask = torch.zeros(1, 1, length, device=device)
            mask[:, :, positions[0] + 1 :] = -torch.inf
            return cls(positions, positions[0], torch.empty(0), mask)
        index = torch.tensor(positions, device=device)
        later = torch.arange(length, device=device) > index[:, None]  # [B, T]
        mask = torch.zeros(later.shape, device=device).masked_fill_(later, -torch.inf)
        return cls(positions, None, index, mask.repeat_interleave(heads, 0)[:, None])

    def write(self, stored: Tensor, kv: Tensor) -> None:
        """Put keys and values [2, B, heads, head_width] into [2, B, heads, T, head_width]."""
        if self.everywhere is not None:
            stored[:, :, :, self.everywhere] = kv
        else:
            rows = torch.arange(len(self.index), device=self.index.device)
            stored[:, rows, :, self.index] = kv.transpose(0, 1).to(stored.dtype)

    def groups(self) -> dict[int, list[int]]:
        """Rows by position."""
        groups: dict[int, list[int]] = {}
        for row, position in enumerate(self.positions):
            groups.setdefault(position, []).append(row)
        return groups


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
