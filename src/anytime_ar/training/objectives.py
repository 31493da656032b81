"""What training minimizes: modules from a batch to named losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytime_ar.autoencoder import Decoded, OrderedAutoencoder, Truncation, kept_mask
from anytime_ar.data import FULL_BATCH, BatchShard
from anytime_ar.prior import Prior
from anytime_ar.spectra import multi_resolution_stft_distance
from anytime_ar.training.config import AutoencoderTrainingConfig

Losses = dict[str, Tensor]
"""Scalars by name; `loss` is the one to minimize, the others are for the log."""


class AutoencoderObjective(nn.Module):
    """E_x E_k || x - decode(keep(encode(x), k)) ||^2 (paper section 3.1), plus quantizer terms."""

    def __init__(self, autoencoder: OrderedAutoencoder, config: AutoencoderTrainingConfig) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.config = config
        self.truncation = config.truncation.build(autoencoder.code_length)
        self.full_truncation = Truncation.full(autoencoder.code_length)

    def forward(
        self, x: Tensor, progress: float, generator: torch.Generator, shard: BatchShard = FULL_BATCH
    ) -> Losses:
        """Losses of a batch, or of a part of one: the mean over all parts is that of the batch.

        Args:
            x: float32 [B, *sample_shape] in [-1, 1].
            progress: share of the steps done, 0..1.
            generator: CPU randomness of this step.
            shard: of a batch that `x` is.
        """
        model = self.autoencoder
        vectors = model.encode_vectors(x)  # [B, L, D]
        match self.config.scheme:
            case "full_and_prefix":
                # Encoder and quantizer run once; only the decoder sees each sample twice.
                full, _ = self._sample_num_kept(x, self.full_truncation, generator, shard)
                prefix, _ = self._sample_num_kept(x, None, generator, shard)
                quantized = model.quantizer(vectors, kept_mask(full, model.code_length))
                decoded = model.decode_vectors(
                    quantized.vectors.repeat(2, 1, 1), torch.cat([full, prefix])
                )
                halves = decoded.samples.chunk(2)
                levels = (None, None) if decoded.loudness is None else decoded.loudness.chunk(2)
                error_full, error_prefix = (
                    self._reconstruction_loss(Decoded(*parts), x)
                    for parts in zip(halves, levels, strict=True)
                )
                return {
                    "loss": error_full + error_prefix + quantized.loss,
                    "full": error_full,
                    "prefix": error_prefix,
                    "quantizer": quantized.loss,
                }
            case "one_stage":
                kept, share = self._sample_num_kept(x, None, generator, shard)
            case "two_stage":
                truncation = self.full_truncation if progress < 0.5 else None
                kept, share = self._sample_num_kept(x, truncation, generator, shard)
        quantized = model.quantizer(vectors, kept_mask(kept, model.code_length))
        error = self._reconstruction_loss(model.decode_vectors(quantized.vectors, kept), x)
        loss = quantized.loss * share
        return {"loss": error + loss, "error": error, "quantizer": loss}

    def _reconstruction_loss(self, decoded: Decoded, x: Tensor) -> Tensor:
        """Mean squared error of samples and, where noise fills them up, of how loud they should be;
        and as much of the spectral distance as is configured."""
        samples = decoded.samples.float()
        error = (samples - x).square().mean()
        wanted = self.autoencoder.loudness(x)
        if decoded.loudness is not None and wanted is not None:
            error = error + (decoded.loudness.float() - wanted).square().sum() / x.numel()
        if self.config.spectral_weight:
            distance = multi_resolution_stft_distance(x, samples).mean()
            error = error + self.config.spectral_weight * distance
        return error

    def _sample_num_kept(
        self,
        x: Tensor,
        truncation: Truncation | None,
        generator: torch.Generator,
        shard: BatchShard,
    ) -> tuple[Tensor, float]:
        """Numbers of kept codes, int64 [B], from the configured p(k) unless told otherwise; and how
        many times as many of them there are as in a part of the batch on average."""
        truncation = truncation or self.truncation
        if self.config.kept_per == "batch":
            return truncation.sample(1, generator).expand(len(x)).to(x.device), 1.0
        batch = truncation.sample(shard.global_batch_size(len(x)), generator)
        kept = shard.local_slice(batch)
        return kept.to(x.device), float(kept.sum()) * shard.num_shards / float(batch.sum())


class PriorObjective(nn.Module):
    """Mean negative log-likelihood of codes, in nats a code.

    Args:
        prior: the Transformer.
        code_noise: share of the input codes replaced by random entries.
    """

    def __init__(self, prior: Prior, code_noise: float = 0.0) -> None:
        super().__init__()
        self.prior = prior
        self.code_noise = code_noise

    def forward(
        self,
        codes: Tensor,
        labels: Tensor | None,
        generator: torch.Generator | None = None,
        shard: BatchShard = FULL_BATCH,
    ) -> Losses:
        """Losses of int64 [B, L] codes with int64 [B] labels or None.

        In training mode, `generator` (CPU) decides which labels are hidden and which codes
        replaced; the same for a part as for the batch.
        """
        seen = codes
        if self.training:
            assert generator is not None
            if labels is not None:
                hidden = _random_mask(self.prior.config.label_dropout, labels, generator, shard)
                labels = torch.where(hidden, self.prior.no_label, labels)
            if self.code_noise:
                shape = shard.global_batch_size(len(codes)), codes.shape[1]
                random = torch.randint(self.prior.vocabulary, shape, generator=generator)
                replaced = _random_mask(self.code_noise, codes, generator, shard)
                seen = torch.where(replaced, shard.local_slice(random).to(codes.device), codes)
        logits = self.prior(seen, labels)  # [B, L, V]
        return {"loss": F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())}


def _random_mask(
    probability: float, like: Tensor, generator: torch.Generator, shard: BatchShard
) -> Tensor:
    """bool, shaped and placed as `like`, a part of a batch; true with `probability`."""
    drawn = torch.rand(shard.global_batch_size(len(like)), *like.shape[1:], generator=generator)
    return (shard.local_slice(drawn) < probability).to(like.device)
