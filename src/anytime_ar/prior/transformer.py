"""The prior (paper section 3.3): a decoder-only Transformer over ordered codes.

`p(codes) = prod_i p(code_i | code_1..code_{i-1}, label)`. Position i of the input holds what is
known last before code i is drawn: position 0 the label (or "no label"), others the code before
and, where the configuration says so, the label as well.
Entry j means something else at every position, so each pair of position and entry has an embedding
of its own, which also scores the entry on the way out, unless the configuration lets neighbouring
positions share them. Letters: `B` batch, `L` code length,
`V` vocabulary, `E` width.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from anytime_ar.config import Config
from anytime_ar.errors import InputError

_CODEBOOK_FEATURE_SCALE = 0.75
"""Length of what tells the length, and the direction, of a vector."""
_FUSED_FROM = 256
"""Positions from which on attention on CPUs is faster in one kernel."""


class Dropout(nn.Module):
    """Zero entries at random while training, and scale the others so that means stay.

    On CPUs from 16 random bits an entry, so that a share holds within 1/65,536: PyTorch draws one
    number an entry, and on CPUs not made by Intel one after the other, which took a fifth of a
    training step of 3 x 96.

    Args:
        p: of the entries, [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        if not self.training or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        if self.p == 0:
            return x
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device="cpu")
        bits = words.random_(-(2**63), None).view(torch.int16)[: x.numel()].view(x.shape)
        kept = (bits >= round(self.p * 2**16) - 2**15).to(x.dtype)
        return x * kept.div_(1 - self.p)


class Block(nn.Module):
    """Pre-norm attention and feed-forward block."""

    def __init__(self, config: PriorConfig) -> None:
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

    def forward(self, x: Tensor) -> Tensor:
        """All positions at once: [B, T, E] -> [B, T, E], each seeing itself and those before."""
        # three of [B, heads, T, E / heads]
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = _causal_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.out(attended))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


def _causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each position attends to itself and those before: three of [B, heads, T, head_width]."""
    if q.device.type != "cpu" or q.shape[2] >= _FUSED_FROM:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    # On CPUs the gradient of the fused kernel is slow for short sequences: forward and backward of
    # 8,192 positions in bfloat16 took 203 ms with it and 24 ms in these steps at T = 35, 183 and
    # 177 ms at T = 256, and 202 and 316 ms at T = 384.
    scores = q @ k.mT * q.shape[-1] ** -0.5  # [B, heads, T, T]
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(diagonal=1)
    return scores.masked_fill(later, -torch.inf).softmax(-1).to(v.dtype) @ v


class Prior(nn.Module):
    """Autoregressive distribution over codes int64 [B, L].

    Args:
        config: sizes of the Transformer.
        code_length: L.
        vocabulary: V.
        label_count: number of classes; 0 for an unconditional prior.
    """

    table_of_position: Tensor
    codebook_features: Tensor

    def __init__(
        self, config: PriorConfig, code_length: int, vocabulary: int, label_count: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.code_length, self.vocabulary, self.label_count = code_length, vocabulary, label_count
        width = config.width
        # Entry j of position i is row tables[i] * V + j.
        following = torch.arange(code_length).flip(0)
        group, place = (
            following // config.positions_per_table,
            following % config.positions_per_table,
        )
        tables = int(group[0]) + 1
        self.register_buffer("table_of_position", tables - 1 - group, persistent=False)  # int64 [L]
        self.code_embedding = nn.Embedding(tables * vocabulary, config.embedding_width or width)
        self.output_bias = nn.Parameter(torch.zeros(tables, vocabulary))
        # Not stored: the autoencoder has them.
        traits = torch.zeros(tables * vocabulary, config.codebook_features)
        self.register_buffer("codebook_features", traits, persistent=False)
        self.embedding_projection: nn.Linear | None = None
        if config.embedding_width:
            self.embedding_projection = nn.Linear(
                config.codebook_features + config.embedding_width, width, bias=False
            )
        self.position_embedding = nn.Parameter(torch.zeros(code_length, width))
        self.label_embedding = nn.Embedding(label_count + 1, width)  # the last row means "no label"
        self.added_label_embedding = (
            nn.Embedding(label_count + 1, width) if config.condition_every_position else None
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
        self.apply(self._initialize)
        if config.positions_per_table > 1:
            # Positions begin as the sum of where in a group of neighbours they stand and of which
            # group that is, so that attention finds what is alike in either from the first step on.
            of_places = nn.init.normal_(torch.empty(config.positions_per_table, width), std=0.04)
            of_groups = nn.init.normal_(torch.empty(tables, width), std=0.02)
            self.position_embedding.data = of_places[place] + of_groups[group]
        for block in self.blocks:  # residual branches start small, as in GPT-2
            assert isinstance(block, Block)
            for branch in (block.out, block.down):
                nn.init.normal_(branch.weight, std=0.02 / (2 * config.layers) ** 0.5)

    @staticmethod
    def _initialize(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @property
    def no_label(self) -> int:
        """The label that means "draw from all classes"."""
        return self.label_count

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of every code given those before it.

        Args:
            codes: int64 [B, T], 1 <= T <= L; the last one is not looked at.
            labels: int64 [B] in 0..label_count (`no_label`); None: no label.

        Returns:
            float [B, T, V]; [:, i] scores code i and depends on codes < i only.
        """
        batch, length = codes.shape
        if length > self.code_length:
            raise InputError(f"{length} codes exceed code length {self.code_length}; pass fewer")
        if labels is None:
            labels = torch.full((batch,), self.no_label, device=self.label_embedding.weight.device)
        first = self.label_embedding(labels)[:, None]  # [B, 1, E]
        tables = self.table_of_position[:length]
        rows = codes[:, :-1] + tables[:-1] * self.vocabulary
        rest = self._with_codebook_features(self.code_embedding(rows), self.codebook_features[rows])
        rest = (
            rest if self.embedding_projection is None else self.embedding_projection(rest)
        )  # [B, T - 1, E]
        x = torch.cat([first, rest], dim=1) + self.position_embedding[:length]
        x = self.dropout(
            x
            if self.added_label_embedding is None
            else x + self.added_label_embedding(labels)[:, None]
        )
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        x = x if self.embedding_projection is None else x @ self.embedding_projection.weight
        entries = self._with_codebook_features(self.code_embedding.weight, self.codebook_features)
        table = entries.unflatten(0, (-1, self.vocabulary))[tables]
        return torch.einsum("bte,tve->btv", x, table) + self.output_bias[tables]

    def nll(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """What each code costs given those before it, -ln p: int64 [B, T] to float32 [B, T].

        Args:
            codes, labels: see `forward`.
        """
        logits = self(codes, labels).float().flatten(0, 1)
        costs = nn.functional.cross_entropy(logits, codes.flatten(), reduction="none")
        return costs.unflatten(0, codes.shape)

    def full_embeddings(self) -> Tensor:
        """The tables at full width: float [tables * V, E]."""
        entries = self._with_codebook_features(self.code_embedding.weight, self.codebook_features)
        return entries if self.embedding_projection is None else self.embedding_projection(entries)

    @torch.no_grad()
    def attach_codebook(self, vectors: Tensor) -> None:
        """Let entries have the traits of the vectors that they stand for in the autoencoder.

        The length of a vector is how strong what it adds is; its direction, in sounds, mostly where
        in a period, and without signs, how high. Entries learn from each other by what they share
        of these, where each would have to find out by itself.

        Args:
            vectors: float [L, V, D], of each position and entry.

        Raises:
            InputError: there are too few traits for 2 D numbers and two more.
        """
        width = vectors.shape[2]
        steps = self.config.codebook_features - 2 * width
        if steps < 2:
            raise InputError(
                f"prior.codebook_features is {self.config.codebook_features}, and entries stand for "
                f"vectors of {width} "
                f"numbers; set it to {2 * width + 2} or more, or to 0"
            )
        first = torch.searchsorted(
            self.table_of_position, torch.arange(int(self.table_of_position[-1]) + 1)
        )
        vectors = vectors[first.to(vectors.device)].float()  # [tables, V, D]
        lengths = vectors.norm(dim=2)  # [tables, V]
        rank = lengths.argsort(1).argsort(1).float() / (self.vocabulary - 1) * (steps - 1)
        # A number for each of some lengths, which overlap, so that what follows may bend.
        near = (1 - (rank[..., None] - torch.arange(steps, device=rank.device)).abs()).clamp_min(0)
        directions = vectors / lengths[..., None].clamp_min(1e-6)
        traits = torch.cat([near, directions, directions.abs()], dim=2)
        self.codebook_features.copy_(_CODEBOOK_FEATURE_SCALE * traits.flatten(0, 1))

    def _with_codebook_features(self, learned: Tensor, features: Tensor) -> Tensor:
        """What is fixed and what is learned of entries, beside each other."""
        return torch.cat([features, learned], dim=-1) if self.config.codebook_features else learned


class PriorConfig(Config):
    """A decoder-only Transformer over codes."""

    layers: int = Field(4, ge=1)
    width: int = Field(192, ge=1)
    heads: int = Field(6, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    """Hidden width of a feed-forward block, as a multiple of `width`."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """On embeddings, attention outputs and feed-forward outputs."""
    positions_per_table: int = Field(1, ge=1)
    """So many neighbouring positions, counted from the last, share a table of entries, as the
    segments of one level do in the autoencoder."""
    embedding_width: int | None = Field(None, ge=1)
    """Width of the tables before a linear map to `width`; None: the same, and no map."""
    codebook_features: int = Field(0, ge=0)
    """So many fixed numbers tell of each entry, beside learned ones, what it means in the
    autoencoder; training takes them from there. Needs `embedding_width`."""
    condition_every_position: bool = False
    """Add the label to the input of every position, not of the first alone, which a long sequence
    is slow to learn to look back to."""
    label_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of training samples whose label is hidden, for classifier-free guidance."""

    @model_validator(mode="after")
    def _codebook_features_need_projection(self) -> Self:
        if self.codebook_features and not self.embedding_width:
            raise ValueError(
                f"codebook_features is {self.codebook_features}, which needs embedding_width, e.g. 24; "
                "set it, or drop codebook_features"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not divisible by heads {self.heads}; change one of them"
            )
        return self
