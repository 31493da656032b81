"""Vector quantization with straight-through gradient (van den Oord et al. 2017) of ordered codes.

Ordered codes need two additions: losses and statistics leave truncated positions out, and a
codebook may belong to one code position. Codebooks are learned by a loss (the paper) or as a moving
average. They start at random or by k-means, and dead entries restart at a vector of the batch.
Later codes may correct the errors of earlier ones (see `ErrorFeedback`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anytime_ar.autoencoder.quantizers.base import Quantized, Quantizer, all_kept
from anytime_ar.runtime.distributed import DistributedContext
from anytime_ar.runtime.torch_modes import default_torch_modes

if TYPE_CHECKING:
    from anytime_ar.autoencoder.quantizers.config import VectorQuantizerConfig

EMA_BUFFERS = ("cluster_size", "embed_avg")
"""Names of the EMA buffers, which only training needs."""
_KMEANS_ITERATIONS = 10


class VectorQuantizer(Quantizer):
    """Quantizer with P codebooks of V entries of width D; P = L (one a position) or 1 (shared).

    Args:
        config: size of the codebooks, and how they are learned.
        code_length: L.
        code_width: D.
        residual: whether each code quantizes the remainder of the code before it.
    """

    codebooks: Tensor
    """Vectors of all entries, float32 [P, V, D]."""
    cluster_size: Tensor
    """Moving average of the number of vectors per entry, float32 [P, V]."""
    embed_avg: Tensor
    """Moving average of the sum of vectors per entry, float32 [P, V, D]."""

    @default_torch_modes(grad=True, keep_device=True)
    def __init__(
        self,
        config: VectorQuantizerConfig,
        code_length: int,
        code_width: int,
        *,
        residual: bool = False,
    ) -> None:
        """Build random codebooks, the error feedback and the EMA buffers."""
        super().__init__()
        self.config, self.residual = config, residual
        count = 1 if config.shared_codebook else code_length
        shape = (count, config.vocabulary, code_width)
        codebooks = nn.init.uniform_(torch.empty(shape), -1, 1) / config.vocabulary
        if config.codebook_update == "loss":
            self.codebooks = nn.Parameter(codebooks)  # [P, V, D]
        else:
            self.register_buffer("codebooks", codebooks)
        self.feedback: ErrorFeedback | None = None
        if config.error_feedback:
            self.feedback = ErrorFeedback(code_length, code_width, residual=residual)
        # Moving averages of the number and the sum of the vectors of each entry. The number also
        # finds dead entries.
        self.register_buffer("cluster_size", torch.ones(shape[:2]))  # [P, V]
        self.register_buffer("embed_avg", codebooks.clone())  # [P, V, D]
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []  # vectors of this step

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *further: Any) -> None:
        # `inference_state` leaves the averages out: start as if each entry had been used once, for
        # itself.
        codebooks = state_dict.get(f"{prefix}codebooks")
        if codebooks is not None:
            state_dict.setdefault(f"{prefix}cluster_size", torch.ones_like(codebooks[..., 0]))
            state_dict.setdefault(f"{prefix}embed_avg", codebooks)
        super()._load_from_state_dict(state_dict, prefix, *further)

    def forward(self, vectors: Tensor, kept_mask: Tensor | None = None) -> Quantized:
        """Quantize to the nearest entries, with a straight-through gradient."""
        kept_mask = all_kept(vectors) if kept_mask is None else kept_mask
        grouped, indices = self._assign(vectors)  # [P, N, D] and [P, N], with P * N = B * L
        chosen = _gather(self.codebooks, indices)  # [P, N, D]
        weight = self._by_codebook(kept_mask[..., None].float())[..., 0]  # [P, N]

        def over_kept(squared: Tensor) -> Tensor:
            return (squared.mean(-1) * weight).sum() / weight.sum()

        loss = self.config.commitment * over_kept((grouped - chosen.detach()).square())
        if self.config.codebook_update == "loss":
            loss = loss + over_kept((grouped.detach() - chosen).square())
        if self.training:
            self._pending.append((grouped.detach(), indices, weight))
        straight_through = grouped + (chosen - grouped).detach()
        like = vectors.shape
        return Quantized(
            self._ungroup(straight_through, like),
            self._ungroup(indices[..., None], like)[..., 0],
            loss,
        )

    def encode(self, vectors: Tensor) -> Tensor:
        """Return the codes of the nearest entries."""
        _, indices = self._assign(vectors)
        return self._ungroup(indices[..., None], vectors.shape)[..., 0]

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the codebook entries of a prefix of codes."""
        if len(self.codebooks) == 1:
            return self.codebooks[0][codes]  # [B, k, D]
        positions = torch.arange(codes.shape[1], device=codes.device)
        return self.codebooks[positions, codes]  # [B, k, D]

    @torch.no_grad()
    def init_codebooks(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Initialise the codebooks by k-means, unless random ones are configured."""
        if self.config.init == "random":
            return
        if self.residual:
            self._init_residual_levels(vectors.float(), generator)
        else:
            entries = kmeans(self._by_codebook(vectors.float()), self.config.vocabulary, generator)
            self.codebooks.copy_(entries)
        self.embed_avg.copy_(self.codebooks)

    def _init_residual_levels(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Fit the entries of each level to the remainder of vectors [N, L, D]."""
        left = torch.zeros_like(vectors[:, 0])
        for level in range(vectors.shape[1]):
            left = left + vectors[:, level]
            (entries,) = kmeans(left[None], self.config.vocabulary, generator)
            self.codebooks[level] = entries
            left = left - self._nearest_entry(left, level)[1]

    def _assign(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors by codebook, after error feedback if any, and their nearest entries.

        Args:
            vectors: float [B, L, D].

        Returns:
            Vectors float32 [P, N, D], and indices of entries int64 [P, N].
        """
        vectors = vectors.float()
        if self.feedback is None:
            grouped = self._by_codebook(vectors)
            return grouped, self._nearest(grouped)
        shifted, chosen = self.feedback(vectors, self._nearest_entry)
        return self._by_codebook(shifted), self._by_codebook(chosen[..., None])[..., 0]

    def _nearest_entry(self, vectors: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Return the nearest entries to the vectors of one position.

        Args:
            vectors: float32 [B, D].
            position: 0..L-1.

        Returns:
            Indices int64 [B], and the entries float32 [B, D].
        """
        codebook = self.codebooks[position if len(self.codebooks) > 1 else 0]  # [V, D]
        chosen = torch.addmm(codebook.square().sum(-1), vectors, codebook.T, alpha=-2).argmin(-1)
        return chosen, codebook[chosen]

    def _by_codebook(self, vectors: Tensor) -> Tensor:
        """Group the vectors that share a codebook: [B, L, D] -> [P, N, D]."""
        if len(self.codebooks) == 1:
            return vectors.reshape(1, -1, vectors.shape[-1])
        return vectors.transpose(0, 1)

    def _ungroup(self, grouped: Tensor, like: torch.Size) -> Tensor:
        """Undo `_by_codebook`: [P, N, *] -> [B, L, *]."""
        if len(self.codebooks) == 1:
            return grouped.reshape(*like[:2], grouped.shape[-1])
        return grouped.transpose(0, 1)

    @torch.no_grad()
    def _nearest(self, grouped: Tensor) -> Tensor:
        """Return indices of the nearest entries, always in float32: [P, N, D] -> int64 [P, N]."""
        with torch.autocast(grouped.device.type, enabled=False):
            codebooks = self.codebooks.float()
            lengths = codebooks.square().sum(-1)[:, None]  # [P, 1, V]
            return torch.baddbmm(lengths, grouped, codebooks.mT, alpha=-2).argmin(-1)

    @torch.no_grad()
    def update_codebooks(
        self, generator: torch.Generator, collectives: DistributedContext | None = None
    ) -> None:
        """Update moving averages and the codebooks that follow them; restart dead entries."""
        collectives = collectives or DistributedContext()
        grouped, indices, weight = (
            torch.cat(parts, 1) for parts in zip(*self._pending, strict=True)
        )
        self._pending = []
        counts, sums = map(
            collectives.all_reduce_sum,
            _cluster_sums(grouped, indices, weight, self.config.vocabulary),
        )
        self.cluster_size.lerp_(counts, 1 - self.config.ema_decay)
        self.embed_avg.lerp_(sums, 1 - self.config.ema_decay)
        if self.config.codebook_update == "ema":
            # An unused entry does not change: its average would be 0/0 in the limit.
            usage = self.cluster_size[..., None]  # [P, V, 1]
            self.codebooks.copy_(torch.where(usage > 1e-5, self.embed_avg / usage, self.codebooks))
        if self.config.dead_code_threshold:
            even_share = self.cluster_size.mean(-1, keepdim=True)  # [P, 1]
            some_kept = counts.sum(-1, keepdim=True) > 0  # [P, 1]
            dead = (
                self.cluster_size < self.config.dead_code_threshold * even_share
            ) & some_kept  # [P, V]
            if dead.any():
                everyone = collectives.all_gather(grouped, 1), collectives.all_gather(weight, 1)
                self._restart_dead_codes(dead, *everyone, even_share, generator)

    def _restart_dead_codes(
        self,
        dead: Tensor,
        grouped: Tensor,
        weight: Tensor,
        even_share: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Restart dead entries at random vectors of the batch.

        Args:
            dead: bool [P, V], entries to restart.
            grouped: vectors of all processes, float32 [P, N, D].
            weight: 1 for vectors that are not truncated, else 0, float32 [P, N].
            even_share: mean usage of an entry, float32 [P, 1].
            generator: source of randomness.
        """
        # A position truncated in the whole batch has no dead entry, but sampling needs weights.
        weight = torch.where(weight.sum(-1, keepdim=True) > 0, weight, torch.ones_like(weight))
        candidates = _gather(
            grouped, _sample_indices(weight, dead.shape[1], generator)
        )  # [P, V, D]
        self.codebooks.copy_(torch.where(dead[..., None], candidates, self.codebooks))
        self.cluster_size.copy_(torch.where(dead, even_share, self.cluster_size))
        self.embed_avg.copy_(
            torch.where(dead[..., None], candidates * even_share[..., None], self.embed_avg)
        )


class ErrorFeedback(nn.Module):
    """Shift of code vectors by a linear map of the quantization errors at earlier positions.

    An encoder returns all L vectors before any of them is quantized. So later codes, which should
    refine, do not know what the first codes lose. Here a learned linear map feeds the errors of
    earlier codes forward, as a residual quantizer does with the identity. Ordered codes gain most:
    with error feedback, order costs hardly any quality at full length. Decoding does not change.

    Args:
        code_length: L.
        code_width: D.
        residual: whether to pass on the error of the code before, unchanged, instead of a learned
            map.
    """

    causal_mask: Tensor
    """Ones for errors of earlier positions, float32 [L, L * D, 1]."""
    weight: Tensor
    """Linear map from the errors to each position, float32 [L, L * D, D]."""

    @default_torch_modes(grad=True, keep_device=True)
    def __init__(self, code_length: int, code_width: int, *, residual: bool = False) -> None:
        """Build the causal linear map, which starts at zero unless it is residual."""
        super().__init__()
        inputs = code_length * code_width
        weight = torch.zeros(code_length, inputs, code_width)  # [L, L * D, D]
        if residual:
            for position in range(1, code_length):
                weight[
                    position, (position - 1) * code_width : position * code_width
                ].fill_diagonal_(1)
            self.register_buffer("weight", weight, persistent=False)
        else:
            self.weight = nn.Parameter(weight)
        earlier = torch.ones(code_length, code_length).tril(diagonal=-1)  # [L, L]
        earlier = earlier.repeat_interleave(code_width, dim=1)[..., None]  # [L, L * D, 1]
        self.register_buffer("causal_mask", earlier, persistent=False)

    def forward(
        self, vectors: Tensor, nearest_entry: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return the vectors to quantize, and the codes of their nearest entries.

        Args:
            vectors: the encoder's output, float32 [B, L, D].
            nearest_entry: function of vectors [B, D] and their position that returns the codes
                int64 [B] and vectors [B, D] of the nearest entries.

        Returns:
            Shifted vectors float32 [B, L, D], and codes int64 [B, L].
        """
        with torch.autocast(vectors.device.type, enabled=False):
            errors, chosen = self._errors(vectors, nearest_entry)  # [B, L * D], [B, L]
            # Errors carry no gradient, so one product computes the shifts of all positions.
            shifts = torch.einsum("bj,ljd->bld", errors, self.weight * self.causal_mask)
            return vectors + shifts, chosen

    @torch.no_grad()
    def _errors(
        self, vectors: Tensor, nearest_entry: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Quantize each position in turn: return errors [B, L * D] and codes int64 [B, L]."""
        batch, length, width = vectors.shape
        errors = vectors.new_zeros(batch, length * width)
        chosen = torch.zeros(batch, length, dtype=torch.int64, device=vectors.device)
        for position in range(length):
            here = position * width
            shifted = vectors[:, position] + errors[:, :here] @ self.weight[position, :here]
            chosen[:, position], entries = nearest_entry(shifted, position)
            errors[:, here : here + width] = shifted - entries
        return errors, chosen


def _sample_indices(
    weight: Tensor, count: int, generator: torch.Generator, *, replacement: bool = True
) -> Tensor:
    """Sample indices by weight, on the generator's device: [P, N] -> int64 [P, count]."""
    drawn = torch.multinomial(
        weight.to(generator.device), count, replacement=replacement, generator=generator
    )
    return drawn.to(weight.device)


def _gather(table: Tensor, indices: Tensor) -> Tensor:
    """Return rows of each codebook: [P, V, D], int64 [P, N] -> [P, N, D]."""
    return table.gather(1, indices[..., None].expand(-1, -1, table.shape[-1]))


def _cluster_sums(
    grouped: Tensor, indices: Tensor, weight: Tensor, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Return the number [P, V] and the sum [P, V, D] of the weighted vectors of each entry."""
    counts = weight.new_zeros(len(grouped), vocabulary).scatter_add_(1, indices, weight)
    rows = indices[..., None].expand_as(grouped)
    sums = grouped.new_zeros(len(grouped), vocabulary, grouped.shape[-1])
    return counts, sums.scatter_add_(1, rows, grouped * weight[..., None])


def kmeans(grouped: Tensor, vocabulary: int, generator: torch.Generator) -> Tensor:
    """Run Lloyd's algorithm for all codebooks at once.

    Args:
        grouped: vectors, float32 [P, N, D].
        vocabulary: V, number of centres.
        generator: source of randomness for the first centres.

    Returns:
        Centres, float32 [P, V, D].
    """
    everyone = torch.ones(grouped.shape[:2], dtype=grouped.dtype, device=grouped.device)
    replacement = grouped.shape[1] < vocabulary
    entries = _gather(
        grouped, _sample_indices(everyone, vocabulary, generator, replacement=replacement)
    )
    for _ in range(_KMEANS_ITERATIONS):
        indices = torch.cdist(grouped, entries).argmin(-1)
        counts, sums = _cluster_sums(grouped, indices, everyone, vocabulary)
        mean = sums / counts.clamp(min=1)[..., None]
        entries = torch.where(counts[..., None] > 0, mean, entries)
    return entries
