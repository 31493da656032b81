"""The interface of quantizers, and the quantizer that leaves vectors continuous."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from anytime_ar.errors import InputError

if TYPE_CHECKING:
    from anytime_ar.runtime.distributed import DistributedContext


class Quantized(NamedTuple):
    """The quantizer's output for a batch of code vectors."""

    vectors: Tensor
    """Nearest codebook entries, float [B, L, D]; the straight-through gradient goes to the
    input."""
    codes: Tensor
    """Indices of these entries, int64 [B, L] in 0..V-1."""
    loss: Tensor
    """Codebook and commitment terms, a scalar; truncated positions do not count."""


class Quantizer(nn.Module):
    """A map from code vectors float [B, L, D] to codes int64 [B, L], and from codes to vectors."""

    def forward(self, vectors: Tensor, kept_mask: Tensor | None = None) -> Quantized:
        """Quantize code vectors.

        In training mode this stores what `update_codebooks` needs.

        Args:
            vectors: float [B, L, D], the encoder's output.
            kept_mask: bool [B, L], false at truncated positions, which count in no loss and no
                statistic; None: none is truncated.
        """
        raise NotImplementedError

    def update_codebooks(
        self, generator: torch.Generator, collectives: DistributedContext | None = None
    ) -> None:
        """Update the codebooks with all vectors quantized in training mode since the last update.

        Call it once a step, however many microbatches and processes the batch is split into.

        Args:
            generator: source of randomness for restarted entries, in the same state in every
                process.
            collectives: the processes, each of which quantizes its shard of the batch; None: this
                process alone.
        """

    def encode(self, vectors: Tensor) -> Tensor:
        """Return the codes of the entries nearest to vectors: float [B, L, D] -> int64 [B, L]."""
        raise NotImplementedError

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors of a prefix of codes: int64 [B, k] -> float32 [B, k, D]."""
        raise NotImplementedError

    def init_codebooks(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Initialise the codebooks before training.

        Args:
            vectors: the encoder's output, float [N, L, D].
            generator: source of randomness, on the CPU.
        """


def all_kept(vectors: Tensor) -> Tensor:
    """Return the mask of vectors [B, L, D] of which none is truncated: bool [B, L]."""
    return torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)


class NoQuantizer(Quantizer):
    """A quantizer that leaves vectors continuous, for reconstruction without codes."""

    def forward(
        self,
        vectors: Tensor,
        kept_mask: Tensor | None = None,  # noqa: ARG002
    ) -> Quantized:
        """Return the vectors unchanged, with zeros for codes and loss."""
        codes = torch.zeros(vectors.shape[:2], dtype=torch.int64, device=vectors.device)
        return Quantized(vectors, codes, vectors.new_zeros(()))

    def encode(self, vectors: Tensor) -> Tensor:
        """Refuse to encode, because there are no codes.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"an autoencoder without quantizer has no codes for {len(vectors)} samples; "
            "use encode_vectors and decode_vectors, or quantizer.kind=vq"
        )

    def lookup(self, codes: Tensor) -> Tensor:
        """Refuse to decode, because there are no codes.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"an autoencoder without quantizer cannot decode codes of shape {tuple(codes.shape)}; "
            "use decode_vectors, or quantizer.kind=vq"
        )
