"""Stages of a run: the ordered autoencoder on samples, and later the prior on their codes.

Between them the decoder may be sharpened; see `sharpening`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anytime_ar.autoencoder import Decoded, OrderedAutoencoder, Truncation, kept_mask
from anytime_ar.data import DataSplits, Prefetcher, Split
from anytime_ar.media.spectra import multi_resolution_stft_distance
from anytime_ar.runtime.distributed import FULL_BATCH, BatchShard, DistributedContext
from anytime_ar.runtime.seeding import generator_for
from anytime_ar.training.config import (
    AutoencoderTrainingConfig,
    DecoderGANConfig,
    TrainConfig,
)
from anytime_ar.training.fsdp import summon_full_params
from anytime_ar.training.stages.base import ENCODE_BATCH_SIZE, Losses

if TYPE_CHECKING:
    from lightning_fabric import Fabric


VALIDATION_SAMPLES = 2000
"""Samples that the autoencoder is validated on: enough for two digits, and no wait."""


class ReconstructionStage:
    """What stages that train an autoencoder on shuffled, augmented samples share."""

    patience: int | None = None  # the last weights, whatever validation says
    objective: nn.Module

    def __init__(
        self,
        autoencoder: OrderedAutoencoder,
        data: DataSplits,
        config: TrainConfig,
        options: AutoencoderTrainingConfig | DecoderGANConfig,
        distributed: DistributedContext,
    ) -> None:
        self.autoencoder, self.data, self.config, self.distributed = (
            autoencoder,
            data,
            config,
            distributed,
        )
        self.batch_sizes: tuple[int, ...] = (options.batch_size,)
        self.steps, self.optimizer = options.steps, options.optimizer
        self.validate_every = max(1, options.steps // 10)
        self.ema_decay = options.ema_decay
        self.batches = Prefetcher(
            data.train.shuffled(
                options.batch_size, config.seed, config.augmentation, distributed.batch_shard()
            )
        )

    def validate(self, objective: nn.Module, fabric: Fabric) -> dict[str, float]:
        """See `reconstruction_errors`."""
        model = objective.autoencoder
        assert isinstance(model, OrderedAutoencoder)
        return reconstruction_errors(model, self.data.validation, fabric, self.distributed)

    def noise_batch(self, batch_size: int) -> Tensor:
        """Return `batch_size` samples of white noise, which take as long as others."""
        generator = generator_for(self.config.seed, "rehearsal")
        return torch.rand(batch_size, *self.data.sample_shape, generator=generator).mul_(2).sub_(1)

    def update_codebooks(self, objective: nn.Module, generator: torch.Generator) -> None:
        """Nothing beside the gradient."""

    def state_dict(self) -> dict[str, Any]:
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches.load_state_dict(state)


class AutoencoderStage(ReconstructionStage):
    """Trains the autoencoder."""

    name = "autoencoder"

    def __init__(
        self,
        autoencoder: OrderedAutoencoder,
        data: DataSplits,
        config: TrainConfig,
        distributed: DistributedContext,
    ) -> None:
        options = config.autoencoder_training
        super().__init__(autoencoder, data, config, options, distributed)
        self.objective = AutoencoderObjective(autoencoder, options)

    def initialize(self, fabric: Fabric) -> None:
        """Choose the first codebook from code vectors of the untrained encoder."""
        options = self.config.autoencoder_training
        batches = self.data.train.shuffled(
            options.batch_size, self.config.seed, self.config.augmentation
        )
        count = -(-options.codebook_init_samples // options.batch_size)
        samples = [fabric.to_device(next(batches).data) for _ in range(count)]
        generator = generator_for(self.config.seed, self.name, "start")
        with fabric.autocast():
            self.autoencoder.init_codebooks(samples, generator)

    def batch(self, step: int) -> tuple[Tensor, float]:
        return next(self.batches).data, step / self.steps

    def timing_batches(self, batch_size: int) -> list[tuple[Tensor, float]]:
        return [(self.noise_batch(batch_size), 0.5)]

    def update_codebooks(self, objective: nn.Module, generator: torch.Generator) -> None:
        """The statistics of codebooks."""
        model = objective.autoencoder
        assert isinstance(model, OrderedAutoencoder)
        with summon_full_params(model.quantizer):
            model.quantizer.update_codebooks(generator, self.distributed)


@torch.no_grad()
def reconstruction_errors(
    model: OrderedAutoencoder, validation: Split, fabric: Fabric, distributed: DistributedContext
) -> dict[str, float]:
    """Mean squared error on the validation split: `loss` from all codes, `half` from half of
    them."""
    prefixes = {"loss": model.code_length, "half": (model.code_length + 1) // 2}
    errors = dict.fromkeys(prefixes, 0.0)
    seen = 0
    for number, batch in enumerate(validation.batches(ENCODE_BATCH_SIZE)):
        seen += len(batch.data)
        if number % distributed.world_size != distributed.rank:
            continue
        x = fabric.to_device(batch.data)
        with fabric.autocast():
            vectors = model.encode_vectors(x)
            every = torch.ones(vectors.shape[:2], dtype=torch.bool, device=x.device)
            quantized = model.quantizer(vectors, every).vectors
            for name, prefix in prefixes.items():
                kept = torch.full((len(x),), prefix, device=x.device)
                decoded = model.decode_vectors(quantized, kept).samples
                errors[name] += float((decoded.float() - x).square().mean()) * len(x)
        if seen >= VALIDATION_SAMPLES:
            break
    totals = distributed.all_reduce_sum(torch.tensor([*errors.values()], dtype=torch.float64))
    return dict(zip(errors, (totals / seen).tolist(), strict=True))


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
        if self.config.stft_loss_weight:
            distance = multi_resolution_stft_distance(x, samples).mean()
            error = error + self.config.stft_loss_weight * distance
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
        if self.config.truncation_per == "batch":
            return truncation.sample(1, generator).expand(len(x)).to(x.device), 1.0
        batch = truncation.sample(shard.global_batch_size(len(x)), generator)
        kept = shard.local_slice(batch)
        return kept.to(x.device), float(kept.sum()) * shard.num_shards / float(batch.sum())
