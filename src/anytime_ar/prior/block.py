"""A block of the Transformer, and its attention.

Letters: `B` batch, `T` positions, `M` tokens of conditions, `E` width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from anytime_ar.prior.transformer import PriorConfig

_FUSED_FROM = 256
"""Number of positions from which on fused attention is faster on CPUs."""


class Dropout(nn.Module):
    """Dropout that takes 16 random bits per element on CPUs.

    A probability is exact within 1/65,536. PyTorch takes one random number per element and, on CPUs
    not made by Intel, one after the other. That took a fifth of a training step of a prior of 3
    layers and width 96.

    Args:
        p: probability of zeroing an element, in [0, 1).
    """

    def __init__(self, p: float) -> None:
        """Set the probability of zeroing."""
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Zero elements at random while training, and scale the others to preserve the mean."""
        if not self.training or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        if self.p == 0:
            return x
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device="cpu")
        bits = words.random_(-(2**63), None).view(torch.int16)[: x.numel()].view(x.shape)
        kept = (bits >= round(self.p * 2**16) - 2**15).to(x.dtype)
        return x * kept.div_(1 - self.p)


class Block(nn.Module):
    """A pre-norm block of attention and feed-forward network.

    Args:
        config: sizes of the Transformer.
    """

    def __init__(self, config: PriorConfig) -> None:
        """Build the layers of the block."""
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, memory: Tensor | None = None, *, causal: bool = True) -> Tensor:
        """Apply attention and the feed-forward network.

        Args:
            x: float [B, T, E].
            memory: float [B, M, E], tokens that all positions attend to as well; None: no tokens.
            causal: whether a position attends to those before it only.

        Returns:
            float [B, T, E].
        """
        # three of [B, heads, T, E / heads]
        q, k, v = self._split_heads(self.qkv(self.norm1(x)))
        if memory is not None:
            keys, values = self.memory_keys_values(memory)
            k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
        attended = _attention(q, k, v, causal=causal).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.out(attended))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))

    def memory_keys_values(self, memory: Tensor) -> Tensor:
        """Compute keys and values of tokens of conditions.

        Args:
            memory: float [B, M, E].

        Returns:
            float [2, B, heads, M, E / heads].
        """
        width = memory.shape[-1]
        return self._split_heads(F.linear(self.norm1(memory), self.qkv.weight[width:]))

    def _split_heads(self, x: Tensor) -> Tensor:
        """Split outputs by kind and head: [B, T, kinds * E] -> [kinds, B, heads, T, E / heads]."""
        kinds = x.shape[-1] // self.out.in_features
        return x.unflatten(-1, (kinds, self.heads, -1)).permute(2, 0, 3, 1, 4)


def _attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Compute attention of T positions to M tokens and to themselves.

    Args:
        q: queries, float [B, heads, T, head_width].
        k: keys, float [B, heads, M + T, head_width].
        v: values, of the same shape.
        causal: whether a position attends to those before it and the tokens only.

    Returns:
        float [B, heads, T, head_width].
    """
    length, seen = q.shape[2], k.shape[2]
    later = None
    if causal and (seen > length or (q.device.type == "cpu" and length < _FUSED_FROM)):
        every = torch.ones(length, seen, dtype=torch.bool, device=q.device)
        later = every.triu(diagonal=1 + seen - length)
    if q.device.type != "cpu" or length >= _FUSED_FROM:
        mask = None if later is None else ~later
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal and mask is None)
    # On CPUs the gradient of the fused kernel is slow for short sequences: forward and backward of
    # 8,192 positions in bfloat16 took 203 ms with it and 24 ms in these steps at T = 35, 183 and
    # 177 ms at T = 256, and 202 and 316 ms at T = 384.
    scores = q @ k.mT * q.shape[-1] ** -0.5  # [B, heads, T, M + T]
    if later is not None:
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v
