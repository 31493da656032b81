"""The prior (paper section 3.3): a decoder-only Transformer over ordered codes.

`p(codes) = prod_i p(code_i | code_1..code_{i-1}, label, conditions)`. The input at position 0 is
the label (or "no label"). The input at a later position is the code before it and, if configured,
the label as well. Conditions are added to the label, or are tokens that all positions attend to.

Code j has another meaning at every position. So each pair of position and code has an embedding of
its own, which also gives its logit (tied embeddings). The configuration can let neighbouring
positions share them. A vocabulary can be that of one position: then its table has as many rows, and
its logits are computed from these alone. Letters: `B` batch, `L` code length, `V` vocabulary (the
largest one, if they differ), `R` rows of all tables, `E` width, `T` positions of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, groupby
from types import MappingProxyType
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from anytime_ar.codes import Vocabulary, as_vocabulary, vocabulary_sizes
from anytime_ar.conditions import Condition, Conditions, hidden_conditions
from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.prior.block import Block, Dropout
from anytime_ar.prior.causal import cross_entropy_of_codes
from anytime_ar.prior.condition_encoder import ConditionEncoder, VectorEncoder
from anytime_ar.runtime.torch_modes import default_torch_modes

_CODEBOOK_FEATURE_SCALE = 0.75
"""Scale of the codebook features that describe the length and the direction of a vector."""


@dataclass(frozen=True)
class _PositionRun:
    """Consecutive positions with the same vocabulary."""

    positions: range
    """These positions."""
    vocabulary: int
    """V, the number of values of each of their codes."""
    rows: slice
    """Rows of their embedding tables."""


class Prior(nn.Module):
    """Autoregressive distribution over codes int64 [B, L].

    Args:
        config: sizes of the Transformer.
        code_length: L.
        vocabulary: V, one number for all positions, or one for each.
        label_count: number of classes; 0 for a prior without labels.
        conditions: what it is conditioned on beside the label, by name.

    Raises:
        InputError: positions of different vocabularies share an embedding table, or have codebook
            features.
    """

    table_of_position: Tensor
    """Index of each position's embedding table, int64 [L]."""
    first_row: Tensor
    """First row of each position's embedding table, int64 [L]."""
    codebook_features: Tensor
    """Fixed features of each code in each table, float32 [R, features]."""

    @default_torch_modes(grad=True, keep_device=True)
    def __init__(
        self,
        config: PriorConfig,
        code_length: int,
        vocabulary: Vocabulary,
        label_count: int = 0,
        conditions: Mapping[str, Condition] = MappingProxyType({}),
    ) -> None:
        """Build the embeddings and blocks, and initialise them."""
        super().__init__()
        self.config, self.conditions = config, conditions
        self.code_length, self.label_count = code_length, label_count
        self.vocabulary = as_vocabulary(vocabulary, code_length)
        width = config.width
        # The embedding of code j at position i is row first_row[i] + j.
        following = torch.arange(code_length).flip(0)
        group, member = (
            following // config.positions_per_table,
            following % config.positions_per_table,
        )
        tables = int(group[0]) + 1
        self.register_buffer("table_of_position", tables - 1 - group, persistent=False)  # int64 [L]
        self.table_sizes = self._table_sizes()
        """Number of rows of each table, which is the vocabulary of its positions."""
        first_rows = torch.tensor([0, *accumulate(self.table_sizes)])
        self.register_buffer("first_row", first_rows[self.table_of_position], persistent=False)
        self._runs = self._position_runs()
        rows = sum(self.table_sizes)
        self.code_embedding = nn.Embedding(rows, config.embedding_width or width)
        bias = torch.zeros(rows)
        one_for_all = isinstance(self.vocabulary, int)
        self.output_bias = nn.Parameter(bias.view(tables, -1) if one_for_all else bias)
        # The features are not stored: they follow from the autoencoder.
        features = torch.zeros(rows, config.codebook_features)
        self.register_buffer("codebook_features", features, persistent=False)
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
        self.condition_encoder = ConditionEncoder(conditions, config) if conditions else None
        self.dropout = Dropout(config.dropout)
        self.apply(self._initialize)
        if config.positions_per_table > 1:
            # The embedding of a position starts as the sum of a vector for its place in the group
            # and a vector for the group. So attention can tell both from the first step on.
            of_members = nn.init.normal_(torch.empty(config.positions_per_table, width), std=0.04)
            of_groups = nn.init.normal_(torch.empty(tables, width), std=0.02)
            self.position_embedding.data = of_members[member] + of_groups[group]
        for block in self.blocks:  # residual branches start small, as in GPT-2
            assert isinstance(block, Block)
            for branch in (block.out, block.down):
                nn.init.normal_(branch.weight, std=0.02 / (2 * config.layers) ** 0.5)

    def _table_sizes(self) -> tuple[int, ...]:
        """Return the number of rows of each table.

        Raises:
            InputError: positions of different vocabularies share a table, or have features.
        """
        if self.config.codebook_features and not isinstance(self.vocabulary, int):
            raise InputError(
                f"prior.codebook_features is {self.config.codebook_features}, and the vocabularies "
                "of positions differ; set it to 0"
            )
        sizes: list[int] = []
        of_positions = vocabulary_sizes(self.vocabulary, self.code_length)
        for position, table in enumerate(self.table_of_position.tolist()):
            if table == len(sizes):
                sizes.append(of_positions[position])
            elif sizes[table] != of_positions[position]:
                raise InputError(
                    f"positions {position - 1} and {position} have vocabularies {sizes[table]} and "
                    f"{of_positions[position]}, and share an embedding table; set "
                    f"prior.positions_per_table to 1 instead of {self.config.positions_per_table}"
                )
        return tuple(sizes)

    def _position_runs(self) -> list[_PositionRun]:
        """Return the runs of positions with the same vocabulary, in order."""
        sizes, first_row = vocabulary_sizes(self.vocabulary, self.code_length), self.first_row
        runs: list[_PositionRun] = []
        for size, members in groupby(range(self.code_length), key=sizes.__getitem__):
            positions = [*members]
            first, last = positions[0], positions[-1]
            rows = slice(int(first_row[first]), int(first_row[last]) + size)
            runs.append(_PositionRun(range(first, last + 1), size, rows))
        return runs

    @staticmethod
    def _initialize(module: nn.Module) -> None:
        """Initialise linear maps and embeddings as in GPT-2."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def standardize_conditions(self, conditions: Conditions) -> None:
        """Take mean and deviation of conditions that are vectors from the training split."""
        assert self.condition_encoder is not None
        for name, encoder in zip(
            self.condition_encoder.names, self.condition_encoder.encoders, strict=True
        ):
            if isinstance(encoder, VectorEncoder):
                encoder.standardize(conditions[name])

    @property
    def label_dropout(self) -> float:
        """Return the share of training sequences without their label."""
        return self.config.label_dropout

    @property
    def no_label(self) -> int:
        """Return the label that means "no label": samples of all classes."""
        return self.label_count

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.code_embedding.weight.device

    def forward(
        self, codes: Tensor, labels: Tensor | None = None, conditions: Conditions | None = None
    ) -> Tensor:
        """Compute the logits of every code given those before it.

        Args:
            codes: int64 [B, T], 1 <= T <= L; the last one has no effect.
            labels: int64 [B] in 0..label_count (`no_label`); None: no label.
            conditions: B rows for each condition; None: none is given.

        Returns:
            float [B, T, V]; [:, i] are the logits of code i, and depend on codes < i only. Those
            of values that code i cannot have are -inf.

        Raises:
            InputError: there are more than L codes.
        """
        batch, length = codes.shape
        if length > self.code_length:
            raise InputError(f"{length} codes exceed code length {self.code_length}; pass fewer")
        if labels is None:
            labels = torch.full((batch,), self.no_label, device=self.label_embedding.weight.device)
        first, memory = self.label_embedding(labels), None  # first: [B, E]
        everywhere = (
            None if self.added_label_embedding is None else self.added_label_embedding(labels)
        )
        if self.condition_encoder is not None:
            added, memory = self.condition_encoder(
                hidden_conditions(self.conditions, batch, self.device)
                if conditions is None
                else conditions
            )
            if everywhere is None:
                first = first + added
            else:
                everywhere = everywhere + added
        rows = codes[:, :-1] + self.first_row[: length - 1]
        rest = self._with_codebook_features(self.code_embedding(rows), self.codebook_features[rows])
        rest = (
            rest if self.embedding_projection is None else self.embedding_projection(rest)
        )  # [B, T - 1, E]
        x = torch.cat([first[:, None], rest], dim=1) + self.position_embedding[:length]
        x = self.dropout(x if everywhere is None else x + everywhere[:, None])
        for block in self.blocks:
            x = block(x, memory)
        x = self.norm(x)
        x = x if self.embedding_projection is None else x @ self.embedding_projection.weight
        entries = self._with_codebook_features(self.code_embedding.weight, self.codebook_features)
        logits = [
            self._logits(x, entries, run) for run in self._runs if run.positions.start < length
        ]
        if isinstance(self.vocabulary, int):
            return logits[0]
        widest = max(self.vocabulary)
        padded = [F.pad(part, (0, widest - part.shape[2]), value=-torch.inf) for part in logits]
        return torch.cat(padded, dim=1)

    def _logits(self, x: Tensor, entries: Tensor, run: _PositionRun) -> Tensor:
        """Compute the logits of the codes at positions of one vocabulary, V.

        Args:
            x: outputs of the last norm at all positions, float [B, T, E].
            entries: rows of all embedding tables, float [R, E].
            run: these positions; those from T on are left out.

        Returns:
            float [B, positions, V].
        """
        positions = slice(run.positions.start, min(run.positions.stop, x.shape[1]))
        tables = self.table_of_position[positions]
        tables = tables - self.table_of_position[run.positions.start]
        shape = (-1, run.vocabulary)
        table = entries[run.rows].unflatten(0, shape)[tables]
        bias = self.output_bias.flatten()[run.rows].unflatten(0, shape)[tables]
        return torch.einsum("bte,tve->btv", x[:, positions], table) + bias

    def nll(
        self, codes: Tensor, labels: Tensor | None = None, conditions: Conditions | None = None
    ) -> Tensor:
        """Compute the negative log-likelihood of each code given those before it, in nats.

        Args:
            codes: int64 [B, T], 1 <= T <= L.
            labels: see `forward`.
            conditions: see `forward`.

        Returns:
            float32 [B, T].
        """
        return cross_entropy_of_codes(self(codes, labels, conditions), codes)

    def full_embeddings(self) -> Tensor:
        """Return the rows of the embedding tables at full width: float [R, E].

        They are computed in float64 and rounded once: sums in float32 round differently on another
        processor, and then codes differ.
        """
        entries = self._with_codebook_features(self.code_embedding.weight, self.codebook_features)
        if self.embedding_projection is None:
            return entries
        weight = self.embedding_projection.weight
        return (entries.double() @ weight.double().mT).to(weight.dtype)

    @torch.no_grad()
    def attach_codebook(self, vectors: Tensor) -> None:
        """Compute the codebook features from the autoencoder's codebooks.

        The length of a code's vector says how much the code adds. In audio, the direction is mostly
        the phase, and without signs the pitch. With these features, what is learned about one code
        carries over to similar ones.

        Args:
            vectors: codebook vectors of each position, float [L, V, D].

        Raises:
            InputError: there are fewer features than 2 D + 2.
        """
        width = vectors.shape[2]
        steps = self.config.codebook_features - 2 * width
        if steps < 2:
            raise InputError(
                f"prior.codebook_features is {self.config.codebook_features}, and entries stand "
                f"for vectors of {width} numbers; set it to {2 * width + 2} or more, or to 0"
            )
        first = torch.searchsorted(
            self.table_of_position, torch.arange(int(self.table_of_position[-1]) + 1)
        )
        # In float64, so that the features are the same on every processor.
        vectors = vectors[first.to(vectors.device)].double()  # [tables, V, D]
        lengths = vectors.norm(dim=2)  # [tables, V]
        rank = lengths.argsort(1).argsort(1).double() / (lengths.shape[1] - 1) * (steps - 1)
        # One feature for each of several overlapping ranges of length, so that a linear map of them
        # can be a piecewise linear function of the length.
        length_features = (
            1 - (rank[..., None] - torch.arange(steps, device=rank.device)).abs()
        ).clamp_min(0)
        directions = vectors / lengths[..., None].clamp_min(1e-6)
        features = torch.cat([length_features, directions, directions.abs()], dim=2)
        self.codebook_features.copy_(_CODEBOOK_FEATURE_SCALE * features.flatten(0, 1))

    def _with_codebook_features(self, learned: Tensor, features: Tensor) -> Tensor:
        """Concatenate codebook features, if any, with learned embeddings."""
        return torch.cat([features, learned], dim=-1) if self.config.codebook_features else learned


class PriorConfig(Config):
    """Sizes of the prior, a decoder-only Transformer over codes."""

    layers: int = Field(4, ge=1)
    """Number of Transformer blocks."""
    width: int = Field(192, ge=1)
    """E, the width of the residual stream."""
    heads: int = Field(6, ge=1)
    """Number of attention heads; divides `width`."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Hidden width of a feed-forward network, as a multiple of `width`."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout probability on embeddings, attention outputs and feed-forward outputs."""
    positions_per_table: int = Field(1, ge=1)
    """Number of neighbouring positions, counted from the last, that share an embedding table.
    The segments of one level share a codebook in the same way."""
    embedding_width: int | None = Field(None, ge=1)
    """Width of the embedding tables before a linear map to `width`; None: `width`, and no map."""
    codebook_features: int = Field(0, ge=0)
    """Number of fixed features of each code, beside learned ones, that describe its codebook
    vector. Training computes them from the autoencoder. Needs `embedding_width`."""
    condition_every_position: bool = False
    """Add label, attributes and vectors to the input of every position instead of the first one
    only. In a long sequence, attention is slow to learn to look back at it."""
    token_layers: int = Field(1, ge=0)
    """Number of blocks that encode the tokens of a condition, such as a text."""
    label_dropout: float = Field(0.1, ge=0, lt=1)
    """Fraction of training samples whose label and conditions are all hidden, for classifier-free
    guidance."""
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    """Fraction of training samples in which a condition is hidden while the others are not,
    independently for each, so that it can be left out and guided by itself."""

    @model_validator(mode="after")
    def _codebook_features_need_projection(self) -> Self:
        if self.codebook_features and not self.embedding_width:
            raise ValueError(
                f"codebook_features is {self.codebook_features}, which needs embedding_width, "
                "e.g. 24; set it, or drop codebook_features"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not divisible by heads {self.heads}; change one of them"
            )
        return self
