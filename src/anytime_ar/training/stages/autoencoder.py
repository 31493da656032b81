"""Training stage and objective of the ordered autoencoder (paper section 3.1).

The stage `decoder_gan` shares its batches and its validation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anytime_ar.autoencoder import Decoded, OrderedAutoencoder, Truncation, kept_mask
from anytime_ar.data import DataSplits, Prefetcher, Split
from anytime_ar.media.spectra import multi_resolution_stft_distance
from anytime_ar.runtime.distributed import FULL_BATCH, BatchShard, DistributedContext
from anytime_ar.runtime.memory import check_memory
from anytime_ar.runtime.seeding import generator_for
from anytime_ar.training.config import (
    AutoencoderTrainingConfig,
    DecoderGANConfig,
    TrainConfig,
)
from anytime_ar.training.fsdp import summon_full_params
from anytime_ar.training.stages import ENCODE_BATCH_SIZE, Losses, Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric


VALIDATION_SAMPLES = 2000
"""Validation samples of the autoencoder, enough for two digits of its error."""


class ReconstructionStage(Stage):
    """Base class of the stages that train an autoencoder on shuffled, augmented samples."""

    patience: int | None = None  # no early stopping: the last weights are used
    objective: nn.Module

    def __init__(
        self,
        autoencoder: OrderedAutoencoder,
        data: DataSplits,
        config: TrainConfig,
        options: AutoencoderTrainingConfig | DecoderGANConfig,
        distributed: DistributedContext,
    ) -> None:
        """Start reading the batches of the stage in the background."""
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
        """Return the reconstruction errors on the validation split; see `reconstruction_errors`."""
        model = objective.autoencoder
        assert isinstance(model, OrderedAutoencoder)
        return reconstruction_errors(model, self.data.validation, fabric, self.distributed)

    def noise_batch(self, batch_size: int) -> Tensor:
        """Return white noise for timing: float32 [batch_size, *sample_shape] in [-1, 1]."""
        generator = generator_for(self.config.seed, "rehearsal")
        return torch.rand(batch_size, *self.data.sample_shape, generator=generator).mul_(2).sub_(1)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the shuffled data."""
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the batches at a position in the shuffled data."""
        self.batches.load_state_dict(state)


class AutoencoderStage(ReconstructionStage):
    """The stage that trains the ordered autoencoder."""

    name = "autoencoder"

    def __init__(
        self,
        autoencoder: OrderedAutoencoder,
        data: DataSplits,
        config: TrainConfig,
        distributed: DistributedContext,
    ) -> None:
        """Build the objective of the stage and start reading its batches."""
        options = config.autoencoder_training
        super().__init__(autoencoder, data, config, options, distributed)
        self.objective = AutoencoderObjective(autoencoder, options)

    def initialize(self, fabric: Fabric) -> None:
        """Initialise the codebooks from code vectors of the untrained encoder."""
        options = self.config.autoencoder_training
        batches = self.data.train.shuffled(
            options.batch_size, self.config.seed, self.config.augmentation
        )
        count = -(-codebook_init_samples(self.config, self.data) // options.batch_size)
        samples = [fabric.to_device(next(batches).data) for _ in range(count)]
        generator = generator_for(self.config.seed, self.name, "start")
        with fabric.autocast():
            self.autoencoder.init_codebooks(samples, generator)

    def batch(self, step: int) -> tuple[Tensor, float]:
        """Return this process's samples of a step, and the share of the steps that are done."""
        return next(self.batches).data, step / self.steps

    def timing_batches(self, batch_size: int) -> list[tuple[Tensor, float]]:
        """Return a batch of white noise, at half of the training."""
        return [(self.noise_batch(batch_size), 0.5)]

    def update_codebooks(self, objective: nn.Module, generator: torch.Generator) -> None:
        """Update the codebooks by the statistics of the last batch."""
        model = objective.autoencoder
        assert isinstance(model, OrderedAutoencoder)
        with summon_full_params(model.quantizer):
            model.quantizer.update_codebooks(generator, self.distributed)


def codebook_init_samples(config: TrainConfig, data: DataSplits) -> int:
    """Return the number of samples that initialise the codebooks.

    A small data set is repeated up to the default number, and never beyond: more copies tell
    nothing new.
    """
    asked = config.autoencoder_training.codebook_init_samples
    default = AutoencoderTrainingConfig.model_fields["codebook_init_samples"].default
    return asked if data.train.size is None else min(asked, max(default, data.train.size))


def check_batch_memory(config: TrainConfig, data: DataSplits, nodes: int) -> None:
    """Check that the samples of a batch fit into memory, before the training begins.

    Args:
        config: Configuration of a run that trains an autoencoder.
        data: The data set.
        nodes: Number of machines, which share a batch.

    Raises:
        InputError: A batch, or the samples that initialise the codebooks, take more memory than
            there is.
    """
    sample_bytes = 4 * math.prod(data.sample_shape)
    options = config.autoencoder_training
    sizes = {"autoencoder_training.batch_size": (options.batch_size, nodes)}
    if config.decoder_gan is not None:
        sizes["decoder_gan.batch_size"] = (config.decoder_gan.batch_size, nodes)
    sizes["autoencoder_training.codebook_init_samples"] = codebook_init_samples(config, data), 1
    for name, (count, share) in sizes.items():
        check_memory(f"{name}={count}", count * sample_bytes // share)


@torch.no_grad()
def reconstruction_errors(
    model: OrderedAutoencoder, validation: Split, fabric: Fabric, distributed: DistributedContext
) -> dict[str, float]:
    """Return the mean squared errors of reconstructions of the validation split.

    Args:
        model: The autoencoder, in evaluation mode.
        validation: Validation split, of which at most about `VALIDATION_SAMPLES` are used.
        fabric: Device and precision.
        distributed: The processes, which share the batches.

    Returns:
        `loss`, from all codes, and `half`, from the first half of the codes.
    """
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
                num_kept = torch.full((len(x),), prefix, device=x.device)
                decoded = model.decode_vectors(quantized, num_kept).samples
                errors[name] += float((decoded.float() - x).square().mean()) * len(x)
        if seen >= VALIDATION_SAMPLES:
            break
    totals = distributed.all_reduce_sum(torch.tensor([*errors.values()], dtype=torch.float64))
    return dict(zip(errors, (totals / seen).tolist(), strict=True))


class AutoencoderObjective(nn.Module):
    """Reconstruction loss of the ordered autoencoder, plus quantizer terms (paper section 3.1).

    The loss is E_x E_k || x - decode(truncate(encode(x), k)) ||^2.
    """

    def __init__(self, autoencoder: OrderedAutoencoder, config: AutoencoderTrainingConfig) -> None:
        """Build the distribution p(k) of the number of kept codes."""
        super().__init__()
        self.autoencoder = autoencoder
        self.config = config
        self.truncation = config.truncation.build(autoencoder.code_length)
        self.full_truncation = Truncation.full(autoencoder.code_length)

    def forward(
        self, x: Tensor, progress: float, generator: torch.Generator, shard: BatchShard = FULL_BATCH
    ) -> Losses:
        """Return the losses of a batch shard; their mean over all shards is the batch's loss.

        Args:
            x: Samples, float32 [B, *sample_shape] in [-1, 1].
            progress: Share of the steps that are done, 0..1.
            generator: CPU generator of this step.
            shard: Which shard of the batch `x` is.

        Returns:
            `loss`, the sum, and its terms: the reconstruction errors and `quantizer`.
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
                num_kept, share = self._sample_num_kept(x, None, generator, shard)
            case "two_stage":
                truncation = self.full_truncation if progress < 0.5 else None
                num_kept, share = self._sample_num_kept(x, truncation, generator, shard)
        quantized = model.quantizer(vectors, kept_mask(num_kept, model.code_length))
        error = self._reconstruction_loss(model.decode_vectors(quantized.vectors, num_kept), x)
        loss = quantized.loss * share
        return {"loss": error + loss, "error": error, "quantizer": loss}

    def _reconstruction_loss(self, decoded: Decoded, x: Tensor) -> Tensor:
        """Return the reconstruction loss of decoded samples.

        It is the mean squared error, plus the error of the band loudness if the decoder substitutes
        noise, plus the weighted STFT distance.
        """
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
        """Draw the numbers of kept codes.

        Args:
            x: Samples of the shard, [B, *sample_shape].
            truncation: Distribution p(k); None: the configured one.
            generator: CPU generator of this step.
            shard: Which shard of the batch `x` is.

        Returns:
            The numbers, int64 [B], and their sum relative to the mean sum of a shard.
        """
        truncation = truncation or self.truncation
        if self.config.truncation_per == "batch":
            return truncation.sample(1, generator).expand(len(x)).to(x.device), 1.0
        batch = truncation.sample(shard.global_batch_size(len(x)), generator)
        num_kept = shard.local_slice(batch)
        share = float(num_kept.sum()) * shard.num_shards / float(batch.sum())
        return num_kept.to(x.device), share
