"""The interface of a quantizer, and the one that does nothing."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from anytime_ar.errors import InputError


class Quantized(NamedTuple):
    """What a quantizer makes of a batch of code vectors."""

    vectors: Tensor
    """float [B, L, D]: the chosen entries; the gradient passes straight through to the input."""
    codes: Tensor
    """int64 [B, L] in 0..V-1."""
    loss: Tensor
    """Scalar: codebook and commitment terms, over kept codes only."""


class Collectives(Protocol):
    """What the processes of a training run tell each other; all of them have to ask alike."""

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Of what each process has."""

    def all_gather(self, value: Tensor, dim: int) -> Tensor:
        """What each process has, in their order."""


class Quantizer(nn.Module):
    """Maps code vectors float [B, L, D] to codes int64 [B, L] and codes back to vectors."""

    def forward(self, vectors: Tensor, kept_mask: Tensor) -> Quantized:
        """Quantize, and in training mode remember the positions that are kept, for `update_codebooks`.

        Args:
            vectors: float [B, L, D], the encoder's output.
            kept_mask: bool [B, L]; positions that are cut off add nothing to losses and statistics.
        """
        raise NotImplementedError

    def update_codebooks(self, generator: torch.Generator, collectives: Collectives) -> None:
        """Learn from all that was quantized in training mode since the last time: once a step,
        however many parts and processes its batch is in.

        Args:
            generator: randomness of restarts, the same in every process.
            collectives: with the other processes, which quantize their parts of the batch.
        """

    def encode(self, vectors: Tensor) -> Tensor:
        """Codes of the entries nearest to `vectors`: float [B, L, D] -> int64 [B, L]."""
        raise NotImplementedError

    def lookup(self, codes: Tensor) -> Tensor:
        """Entries of a prefix: int64 [B, k] -> float32 [B, k, D]."""
        raise NotImplementedError

    def init_codebooks(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Choose the first codebook from encoder outputs float [N, L, D], before training."""


class NoQuantizer(Quantizer):
    """Leaves vectors continuous: there are no codes to draw, only reconstruction and its order."""

    def forward(
        self,
        vectors: Tensor,
        kept_mask: Tensor,  # noqa: ARG002
    ) -> Quantized:
        codes = torch.zeros(vectors.shape[:2], dtype=torch.int64, device=vectors.device)
        return Quantized(vectors, codes, vectors.new_zeros(()))

    def encode(self, vectors: Tensor) -> Tensor:
        raise InputError(
            f"an autoencoder without quantizer has no codes for {len(vectors)} samples; "
            "use encode_vectors and decode_vectors, or quantizer.kind=vq"
        )

    def lookup(self, codes: Tensor) -> Tensor:
        raise InputError(
            f"an autoencoder without quantizer cannot decode codes of shape {tuple(codes.shape)}; "
            "use decode_vectors, or quantizer.kind=vq"
        )
