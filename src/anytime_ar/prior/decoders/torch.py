"""Decode the prior with PyTorch operations, on every device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.prior.block import Block
from anytime_ar.prior.decoders.base import (
    Precision,
    TransformerDecoder,
    TransformerDecodeState,
    int64_tensor,
)
from anytime_ar.prior.decoders.packed_linear import Linear, pack_linear
from anytime_ar.prior.kv_cache import KVCache
from anytime_ar.prior.transformer import Prior
from anytime_ar.runtime.torch_modes import default_torch_modes

_BMM_LOOP_BELOW = 400
"""Number of multiplications below which PyTorch computes a batched product in a loop of its own.
The loop rounds differently from BLAS."""


class TorchKVCache(KVCache):
    """Keys and values of every layer, for rows at different positions.

    Positions are allocated in blocks as sequences grow: products on whole, contiguous blocks are
    faster than on exact slices. A row's result does not depend on the number of empty blocks after
    it. Numbers after a row's own position are finite, and the mask hides them.

    Args:
        layers: number of layers.
        capacity: maximum number of rows.
        heads: number of heads.
        length: L, maximum number of positions.
        head_width: width of a head.
        device: device of the memory.
    """

    def __init__(
        self,
        layers: int,
        capacity: int,
        heads: int,
        length: int,
        head_width: int,
        device: torch.device,
    ) -> None:
        """Allocate the memory for all rows and positions."""
        # The block is a multiple of 16, the width of a vector register, and large enough that BLAS
        # computes the products.
        self._block = 16 * math.ceil(_BMM_LOOP_BELOW / (16 * head_width))
        self._heads, self._head_width = heads, head_width
        most = 2 * capacity * heads * self._blocks(length) * head_width
        self.memory = torch.zeros(layers, most, dtype=torch.float32, device=device)
        super().__init__(capacity, [self.memory])
        self.clear()

    def clear(self) -> None:
        """Forget all keys and values, but do not free the memory.

        Fresh memory costs as much time as the arithmetic of a batch.
        """
        self._set_views(self._block)

    def reserve(self, positions: int) -> None:
        """Make room for this many positions, and preserve keys and values."""
        positions = self._blocks(positions)
        if positions <= self.positions:
            return
        for old, memory in zip(list(self.layers), self.memory, strict=True):
            kept = old.clone()  # the new layout overlaps the old
            new = self._view(memory, positions)
            new[:, :, :, : kept.shape[3]] = kept
        self._set_views(positions)

    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        for layer in self.layers:
            layer[:, target] = layer[:, source]

    def _blocks(self, positions: int) -> int:
        """Round a number of positions up to whole blocks."""
        return math.ceil(positions / self._block) * self._block

    def _set_views(self, positions: int) -> None:
        """Lay the memory out for this many positions."""
        self.positions = positions
        """T, the number of positions that there is room for."""
        self.layers = [self._view(memory, positions) for memory in self.memory]
        """Keys and then values of each layer: float32 [2, rows, heads, T, head_width]."""

    def _view(self, memory: Tensor, positions: int) -> Tensor:
        """Return a layer's memory as [2, rows, heads, T, head_width]."""
        shape = (2, self.capacity, self._heads, positions, self._head_width)
        return memory[: math.prod(shape)].view(shape)


class TorchPriorDecoder(TransformerDecoder[TransformerDecodeState[TorchKVCache]]):
    """A `PriorDecoder` that runs on PyTorch operations.

    Args:
        prior: see `PriorDecoder`.
        precision: see `PriorDecoder`.
    """

    @default_torch_modes()
    def __init__(self, prior: Prior, precision: Precision = "float32") -> None:
        """Pack the weights of the prior."""
        super().__init__(prior, precision)
        self._heads = prior.config.heads
        self._blocks = [_TorchBlock.of(block, precision) for block in prior.blocks]
        self._norm = _TorchNorm.of(prior.norm)
        tables = self._code_embeddings.split(prior.table_sizes)
        biases = prior.output_bias.flatten().split(prior.table_sizes)
        scores = [
            pack_linear(table, bias, precision) for table, bias in zip(tables, biases, strict=True)
        ]
        self._logit_maps = [
            scores[table] for table in prior.table_of_position.tolist()
        ]  # by position

    @default_torch_modes()
    def logits(self, state: TransformerDecodeState[TorchKVCache], count: int) -> Tensor:
        """Compute the logits that `step` samples from; see `PriorDecoder.logits`."""
        positions, cache = state.positions[:count], state.cache
        cache.reserve(self._memory_length + max(positions) + 1)
        step_positions = _StepPositions.of(positions, cache, self._memory_length, self.device)
        x = self._inputs(state, 0, positions)
        for block, stored in zip(self._blocks, cache.layers, strict=True):
            x = block.step(x, stored[:, :count], step_positions)
        return self._project_logits(self._norm(x), step_positions)

    @default_torch_modes()
    def prefill(self, state: TransformerDecodeState[TorchKVCache], first: int, count: int) -> None:
        """Fill the cache from codes; see `PriorDecoder.prefill`."""
        drawn, cache = state.positions[first], state.cache
        cache.reserve(self._memory_length + drawn)
        by_position = [[position] * count for position in range(drawn)]
        x = torch.cat([self._inputs(state, first, positions) for positions in by_position])
        step_positions = [
            _StepPositions.of(positions, cache, self._memory_length, self.device)
            for positions in by_position
        ]
        for block, stored in zip(self._blocks, cache.layers, strict=True):
            x = block.prefill(x, stored[:, first : first + count], step_positions)

    @default_torch_modes()
    def matmul_only(self, rows: int) -> None:
        """Compute only the matrix products; see `PriorDecoder.matmul_only`."""
        narrow, wide = self._code_embeddings.shape[1], self._blocks[0].hidden
        dtype = self._logit_maps[0].dtype
        x = torch.ones(rows, narrow, dtype=dtype, device=self.device)
        hidden = torch.ones(rows, wide, dtype=dtype, device=self.device)
        for score in self._logit_maps:
            for block in self._blocks:
                block.qkv(x)
                block.out(x)
                block.up(x)
                block.down(hidden)
            score(x)

    def _new_cache(self, capacity: int, device: torch.device) -> TorchKVCache:
        """Return a new cache; on the device `meta`, one without memory."""
        head_width = self._code_embeddings.shape[1] // self._heads
        layers, heads = len(self._blocks), self._heads
        length = self._memory_length + self.code_length
        return TorchKVCache(layers, capacity, heads, length, head_width, device)

    def _new_state(self, capacity: int) -> TransformerDecodeState[TorchKVCache]:
        """Return a new state with `capacity` slots."""
        return TransformerDecodeState(
            self._new_cache(capacity, self.device),
            self.code_length,
            self._sampling_device,
            self._first_inputs,
            everywhere=self._added_label_embeddings is not None,
        )

    def _write_memory(
        self, state: TransformerDecodeState[TorchKVCache], first: int, keys_values: Tensor
    ) -> None:
        """Write the keys and values of condition tokens; see `TransformerDecoder`."""
        state.cache.reserve(self._memory_length)
        rows = slice(first, first + keys_values.shape[2])
        for stored, pair in zip(state.cache.layers, keys_values, strict=True):
            stored[:, rows, :, : self._memory_length] = pair.to(stored.device)

    def _inputs(
        self, state: TransformerDecodeState[TorchKVCache], first: int, positions: Sequence[int]
    ) -> Tensor:
        """Return the inputs of the first block for some rows.

        Args:
            state: has the codes and the inputs at the first position.
            first: first row.
            positions: position of each row, B of them.

        Returns:
            float32 [B, E].
        """
        here = slice(first, first + len(positions))
        codes, firsts = state.codes[here].to(self.device), state.first_inputs[here]
        if max(positions) == 0:
            return firsts
        added = None if state.later_inputs is None else state.later_inputs[here]
        if min(positions) == max(positions):
            at = positions[0]
            return self._embed(codes[:, at - 1], at, added)
        mixed = int64_tensor(positions, self.device)
        before = codes.gather(1, (mixed - 1).clamp(min=0)[:, None])[:, 0]
        later = self._embed(before, mixed.clamp(min=1), added)
        return torch.where(mixed[:, None] == 0, firsts, later)

    def _embed(self, codes: Tensor, positions: int | Tensor, added: Tensor | None) -> Tensor:
        """Embed the codes before some positions.

        Args:
            codes: int64 [B].
            positions: positions of the inputs, 1..L-1, one for all rows or int64 [B].
            added: what is added for the label and the conditions, float32 [B, E].

        Returns:
            float32 [B, E].
        """
        entries = self._code_embeddings[codes + self._first_row[positions - 1]]
        x = entries + self._position_embeddings[positions]
        return x if added is None else x + added

    def _project_logits(self, x: Tensor, positions: _StepPositions) -> Tensor:
        """Compute logits from the output of the last norm: [B, E] -> float32 [B, V or less]."""
        x = x.to(self._logit_maps[0].dtype)
        if positions.common_position is not None:
            return self._logit_maps[positions.common_position](x).float()
        logits = x.new_empty(len(x), self._largest_vocabulary, dtype=torch.float32)
        for position, rows in positions.groups().items():
            found = self._logit_maps[position](x[rows]).float()
            logits[rows, : found.shape[1]] = found
        return logits


@dataclass(frozen=True)
class _StepPositions:
    """The positions of the rows of one step."""

    positions: Sequence[int]
    """Position of each row, B of them."""
    common_position: int | None
    """The position of all rows; None if they differ."""
    common_place: int
    """The place of all rows in the cache, after the tokens of conditions, if they are at one
    position."""
    index: Tensor
    """Place of each row on the device, int64 [B]; empty if all rows are at one position."""
    mask: Tensor
    """Attention mask, float32 [1 or B * heads, 1, T]: -inf after a row's place."""

    @classmethod
    def of(
        cls, positions: Sequence[int], cache: TorchKVCache, start: int, device: torch.device
    ) -> _StepPositions:
        """Compute the mask and the index for rows at these positions, of which 0 is at `start`."""
        heads, length = cache.layers[0].shape[2:4]
        if min(positions) == max(positions):
            place = start + positions[0]
            mask = torch.zeros(1, 1, length, dtype=torch.float32, device=device)
            mask[:, :, place + 1 :] = -torch.inf
            return cls(positions, positions[0], place, int64_tensor([], device), mask)
        index = int64_tensor(positions, device) + start
        later = torch.arange(length, dtype=torch.int64, device=device) > index[:, None]  # [B, T]
        mask = torch.zeros(later.shape, dtype=torch.float32, device=device)
        mask = mask.masked_fill_(later, -torch.inf)
        return cls(positions, None, -1, index, mask.repeat_interleave(heads, 0)[:, None])

    def write(self, stored: Tensor, kv: Tensor) -> None:
        """Write the keys and values of a step into the cache of a layer.

        Args:
            stored: the cache, float32 [2, B, heads, T, head_width].
            kv: keys and values, [2, B, heads, head_width].
        """
        if self.common_position is not None:
            stored[:, :, :, self.common_place] = kv
        else:
            rows = torch.arange(len(self.index), dtype=torch.int64, device=self.index.device)
            stored[:, rows, :, self.index] = kv.transpose(0, 1).to(stored.dtype)

    def groups(self) -> dict[int, list[int]]:
        """Group the rows by position."""
        groups: dict[int, list[int]] = {}
        for row, position in enumerate(self.positions):
            groups.setdefault(position, []).append(row)
        return groups


@dataclass(frozen=True)
class _TorchNorm:
    """A layer norm of float32 [B, E]."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: torch.nn.LayerNorm) -> _TorchNorm:
        """Take over the weights of a layer norm."""
        return cls(norm.weight.detach().clone(), norm.bias.detach().clone(), norm.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class _TorchBlock:
    """A Transformer block with packed weights."""

    heads: int
    """Number of attention heads."""
    hidden: int
    """Hidden width of the feed-forward network."""
    norm1: _TorchNorm
    qkv: Linear
    out: Linear
    norm2: _TorchNorm
    up: Linear
    down: Linear

    @classmethod
    def of(cls, block: torch.nn.Module, precision: Precision) -> _TorchBlock:
        """Pack the weights of a block."""
        assert isinstance(block, Block)
        width = block.out.in_features
        weight = block.qkv.weight.detach().clone()
        weight[:width] *= (width // block.heads) ** -0.5  # attention scales queries by this
        return cls(
            block.heads,
            block.up.out_features,
            _TorchNorm.of(block.norm1),
            pack_linear(weight, None, precision),
            pack_linear(block.out.weight, None, precision),
            _TorchNorm.of(block.norm2),
            pack_linear(block.up.weight, block.up.bias, precision, gelu=True),
            pack_linear(block.down.weight, block.down.bias, precision),
        )

    def step(self, x: Tensor, stored: Tensor, positions: _StepPositions) -> Tensor:
        """Apply the block at one position of each row.

        Args:
            x: float32 [B, E].
            stored: the cache of the layer, float32 [2, B, heads, T, head_width].
            positions: position of each row.

        Returns:
            float32 [B, E].
        """
        return self._finish(x, self._attend(self._project(x), stored, positions))

    def prefill(self, x: Tensor, stored: Tensor, positions: Sequence[_StepPositions]) -> Tensor:
        """Apply the block at several positions of each row.

        Args:
            x: float32 [k * B, E], by position.
            stored: the cache of the layer, float32 [2, B, heads, T, head_width].
            positions: k steps in order.

        Returns:
            float32 [k * B, E].
        """
        attended = [
            self._attend(qkv, stored, step_positions)
            for step_positions, qkv in zip(
                positions, self._project(x).split(stored.shape[1]), strict=True
            )
        ]
        return self._finish(x, torch.cat(attended))

    def _project(self, x: Tensor) -> Tensor:
        """Compute queries, keys and values: [B, E] -> [B, 3, heads, head_width]."""
        return self.qkv(self.norm1(x).to(self.qkv.dtype)).unflatten(-1, (3, self.heads, -1))

    def _attend(self, qkv: Tensor, stored: Tensor, positions: _StepPositions) -> Tensor:
        """Write keys and values of one position, and compute its attention."""
        positions.write(stored, qkv[:, 1:].transpose(0, 1))
        return _attend(qkv[:, 0].float(), stored[0], stored[1], positions.mask)

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add attention and feed-forward outputs to the residual stream."""
        dtype = self.qkv.dtype
        x = x + self.out(attended.to(dtype))
        return x + self.down(self.up(self.norm2(x).to(dtype)))


def _attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Compute attention with one query per row and head.

    Args:
        q: scaled queries, float32 [B, heads, head_width].
        keys: float32 [B, heads, T, head_width].
        values: float32 [B, heads, T, head_width].
        mask: 0 or -inf, added to the scores, [1 or B * heads, 1, T].

    Returns:
        float32 [B, E].
    """
    batch, heads, head_width = q.shape
    rows = batch * heads
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)  # [B * heads, T, head_width]
    scores = torch.baddbmm(mask, q.reshape(rows, 1, head_width), keys.mT)  # [B * heads, 1, T]
    return torch.bmm(scores.softmax(-1), values).view(batch, heads * head_width)
