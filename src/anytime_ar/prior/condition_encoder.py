"""From conditions to what the prior reads of them: a vector, and keys and values of tokens.

Classes and vectors are added to the input of the first position, as the label is. The tokens of a
text are encoded by a small bidirectional Transformer, and each block of the prior attends to them
beside the codes before (as in Imagen, Saharia et al. 2022): it computes keys and values of them
with its own weights. All of it happens once for a sample, and nothing of it at each code but
attention. Letters: `B` batch, `E` width, `M` tokens of all conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from anytime_ar.conditions import (
    ClassCondition,
    Condition,
    Conditions,
    TokenCondition,
    VectorCondition,
)
from anytime_ar.prior.block import Block

if TYPE_CHECKING:
    from anytime_ar.prior.transformer import PriorConfig


class VectorEncoder(nn.Module):
    """A linear map of standardised vectors, and a vector of its own for "not given".

    Args:
        condition: width of the vectors.
        width: E.
    """

    mean: Tensor
    """Mean of each number in the training split, float32 [width of the vectors]."""
    deviation: Tensor
    """Standard deviation of each number in the training split, float32, same shape."""

    def __init__(self, condition: VectorCondition, width: int) -> None:
        """Build a map of vectors with mean 0 and standard deviation 1."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(condition.width))
        self.register_buffer("deviation", torch.ones(condition.width))
        self.map = nn.Linear(condition.width, width)
        self.hidden = nn.Parameter(torch.zeros(width))

    @torch.no_grad()
    def standardize(self, vectors: Tensor) -> None:
        """Take mean and standard deviation from the vectors of the training split, [N, width]."""
        given = vectors[vectors.isfinite().all(1)].double()
        if len(given):
            deviation = given.std(0, correction=0)
            self.mean.copy_(given.mean(0))
            self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors [B, width], NaN where not given, to [B, E]."""
        given = vectors.isfinite().all(1, keepdim=True)
        dtype = self.mean.dtype
        standard = (vectors.nan_to_num().to(dtype) - self.mean) / self.deviation
        return torch.where(given, self.map(standard), self.hidden)


class TokenEncoder(nn.Module):
    """A bidirectional Transformer over tokens and the places that they leave empty.

    Args:
        condition: number of tokens and their vocabulary.
        config: sizes of the prior, whose blocks it has.
    """

    def __init__(self, condition: TokenCondition, config: PriorConfig) -> None:
        """Build embeddings of tokens, of the empty place and of positions."""
        super().__init__()
        self.embedding = nn.Embedding(condition.token_count + 1, config.width)
        self.position_embedding = nn.Embedding(condition.max_tokens, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.token_layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode tokens int64 [B, max_tokens] to [B, max_tokens, E]."""
        x = self.embedding(tokens) + self.position_embedding.weight
        for block in self.blocks:
            x = block(x, causal=False)
        return self.norm(x)


class ConditionEncoder(nn.Module):
    """The encoders of a prior's conditions.

    Args:
        conditions: conditions of the prior, by name.
        config: sizes of the prior.
    """

    def __init__(self, conditions: Mapping[str, Condition], config: PriorConfig) -> None:
        """Build an encoder for each condition."""
        super().__init__()
        self.names = list(conditions)
        self.encoders = nn.ModuleList(_encoder(one, config) for one in conditions.values())
        self.token_count = sum(
            one.max_tokens for one in conditions.values() if isinstance(one, TokenCondition)
        )
        """M, the number of tokens of all conditions."""

    def forward(self, conditions: Conditions) -> tuple[Tensor, Tensor | None]:
        """Encode the conditions of B samples.

        Returns:
            float [B, E], to add to the label's embedding; and float [B, M, E], tokens to attend to,
            or None if no condition has tokens.
        """
        encoded = [
            encoder(conditions[name])
            for name, encoder in zip(self.names, self.encoders, strict=True)
        ]
        memory = [one for one in encoded if one.dim() == 3]
        # The mean of a text's tokens reaches the first code without a layer of attention.
        added = torch.stack([one if one.dim() == 2 else one.mean(1) for one in encoded]).sum(0)
        return added, torch.cat(memory, dim=1) if memory else None


def _encoder(condition: Condition, config: PriorConfig) -> nn.Module:
    """Build the encoder of a condition."""
    if isinstance(condition, TokenCondition):
        return TokenEncoder(condition, config)
    if isinstance(condition, VectorCondition):
        return VectorEncoder(condition, config.width)
    assert isinstance(condition, ClassCondition)
    return nn.Embedding(len(condition.names) + 1, config.width)  # the last row: not given
