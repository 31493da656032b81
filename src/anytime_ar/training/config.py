"""Configuration of a training run: data, autoencoder, decoder GAN, prior, optimizers, processes."""

from __future__ import annotations

import os
from typing import Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from anytime_ar.autoencoder import AutoencoderConfig, ProjectionConfig, TruncationConfig
from anytime_ar.config import Config
from anytime_ar.data import AugmentationConfig, DataConfig
from anytime_ar.plugins import OneOf, PartConfig
from anytime_ar.prior import PriorConfig, SamplingParams

TrainingPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Number formats of training, by the names that Lightning Fabric gives them."""


class OptimizerConfig(Config):
    """An optimizer, AdamW or Muon, with linear warm-up and cosine decay to zero."""

    kind: Literal["adamw", "muon"] = "adamw"
    """Optimizer of the weight matrices of linear layers: `adamw` or `muon` (Jordan et al. 2024).

    AdamW updates all other parameters. A step of Muon costs more and lowers the loss of a
    Transformer further.
    """

    learning_rate: float = Field(1e-3, gt=0)
    """Highest learning rate, reached after the warm-up."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of linear and convolutional weights.

    Biases, norms, embeddings and codebooks do not decay.
    """
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay rate of AdamW's first moment, [0, 1)."""
    beta2: float = Field(0.99, gt=0, lt=1)
    """Decay rate of AdamW's second moment, (0, 1)."""
    warmup_steps: int = Field(100, ge=0)
    """Steps of linear warm-up of the learning rate."""
    clip_norm: float = Field(1.0, gt=0)
    """Maximum L2 norm of the gradient; a longer gradient is scaled down to it."""


class AutoencoderTrainingConfig(Config):
    """Settings of the stage that trains the ordered autoencoder."""

    scheme: Literal["one_stage", "two_stage", "full_and_prefix"] = "one_stage"
    """Prefixes from which a step reconstructs its samples.

    `one_stage`: a random prefix, drawn by `truncation`. `two_stage` (paper): all codes in the first
    half of the steps, then a random prefix. `full_and_prefix`: all codes and a random prefix in
    every step, at twice the cost of the decoder; set `truncation.full_probability` to 0 with it.
    """
    truncation: TruncationConfig = TruncationConfig()
    """Distribution of the number of kept codes."""
    truncation_per: Literal["sample", "batch"] = "sample"
    """Whether each `sample` draws its number of kept codes, or the `batch` draws one (paper)."""
    stft_loss_weight: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Weight of the multi-resolution STFT distance of audio, beside the squared error; 0: none."""
    steps: int = Field(3000, ge=1)
    """Training steps of the stage."""
    batch_size: int = Field(128, ge=1)
    """Samples in a step, over all processes."""
    codebook_init_samples: int = Field(4096, ge=1)
    """Number of samples whose code vectors initialise the codebook. Beyond the default, at most the
    samples of the training split."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer of the autoencoder and its schedule."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay of the moving average of the weights, which the bundle then holds; None: no average."""


class DecoderGANConfig(Config):
    """Settings of the stage that fine-tunes the decoder against a discriminator of images."""

    adversarial_weight: float = Field(0.1, gt=0, allow_inf_nan=False)
    """Weight of the adversarial loss, beside the squared error."""
    r1_gamma: float = Field(0.1, ge=0, allow_inf_nan=False)
    """Weight gamma of the R1 penalty on the discriminator's gradient at real images."""
    discriminator_width: int = Field(32, ge=1)
    """Channels of the discriminator's first convolution; each further one has twice as many."""
    truncation: TruncationConfig = TruncationConfig(full_probability=0)
    """Distribution of the number of codes that the decoder sees."""
    steps: int = Field(4000, ge=1)
    """Training steps of the stage."""
    batch_size: int = Field(64, ge=1)
    """Images in a step, over all processes."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=6e-4, beta1=0.5, clip_norm=10)
    """Optimizer of decoder and discriminator and its schedule."""
    ema_decay: float = Field(0.999, gt=0, lt=1)
    """Decay of the moving average of the weights, which the bundle then holds."""


class PriorTrainingConfig(Config):
    """Settings of the stage that trains the prior, on codes that are computed once."""

    steps: int = Field(3000, ge=1)
    """Training steps of the stage, at most."""
    batch_size: int = Field(256, ge=1)
    """Code sequences of full length in a step, over all processes."""
    prefix_fractions: tuple[float, ...] = (1.0,)
    """Prefix lengths of the training sequences, as fractions of the code length, (0, 1].

    Successive steps cycle through them. A batch of shorter prefixes holds more sequences, so that
    every step trains on about as many codes. The first codes decide the content of a sample, and
    short prefixes train them at the lowest cost.
    """
    augmentation: AugmentationConfig = AugmentationConfig()
    """Augmentation of the samples before they are encoded."""
    augmented_copies: int = Field(1, ge=1)
    """Number of encodings of each training sample, each with a new augmentation."""
    code_noise: float = Field(0.0, ge=0, lt=1)
    """Share of the input codes that random entries replace, [0, 1); targets do not change."""
    validate_every: int = Field(250, ge=1)
    """Training steps between two validations."""
    patience: int = Field(4, ge=1)
    """Validations without a better loss that end the stage; it then restores its best weights."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer of the prior and its schedule."""
    ema_decay: float | None = Field(0.995, gt=0, lt=1)
    """Decay of the moving average of the weights; None: no average.

    Validation and the bundle use the average.
    """

    @field_validator("prefix_fractions")
    @classmethod
    def _check_prefix_fractions(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if not fractions or not all(0 < share <= 1 for share in fractions):
            raise ValueError(
                f"prefix_fractions must be in (0, 1], e.g. [0.25, 1], got {[*fractions]}"
            )
        return fractions


class TrainConfig(Config):
    """Configuration of a training run: data, ordered autoencoder, decoder GAN and prior."""

    name: str = Field("model", min_length=1)
    """Name of the model in its bundle."""
    seed: int = Field(0, ge=0)
    """Seed of all randomness of the training.

    The feature extractor has its own, `feature_extractor.seed`, so that the evaluation does not
    depend on this seed.
    """
    data: DataConfig = DataConfig()
    """Data set and how it is prepared."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Augmentation of the samples that the autoencoder and the decoder GAN train on."""
    tokenizer: str | PartConfig | None = None
    """Trained tokenizer in place of `autoencoder`: that of a model by name, folder or Hub ID, or
    kind and settings."""
    tokenizer_reference: str | None = None
    """Hub ID (`@REVISION`) or folder of its weights."""
    autoencoder: SerializeAsAny[AutoencoderConfig] = ProjectionConfig()
    """Networks, quantizer and codes of the autoencoder."""
    autoencoder_training: AutoencoderTrainingConfig = AutoencoderTrainingConfig()
    """Settings of the stage `autoencoder`."""
    decoder_gan: DecoderGANConfig | None = None
    """Adversarial fine-tuning of the decoder, for images only; None: no such stage."""
    prior: OneOf[PriorConfig] | None = PriorConfig()
    """The prior, or kind and settings of another one; None: train the autoencoder alone."""
    prior_training: PriorTrainingConfig = PriorTrainingConfig()
    """Settings of the stage `prior`."""
    conditional: bool = True
    """Whether the prior is conditioned on class labels, if the data has them."""
    sampling_params: SamplingParams = SamplingParams()
    """Default sampling parameters of the model."""
    weights_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the weights in the bundle."""
    precision: Literal["auto"] | TrainingPrecision = "auto"
    """Number format of training: float32, or mixed precision with bfloat16 or float16.

    `auto` times float32 and bfloat16 at the start of each stage and uses the faster one.
    """
    checkpoint_every_minutes: float = Field(5.0, gt=0)
    """Minutes between two checkpoints of a stage."""
    log_every: int = Field(50, ge=1)
    """Steps between two lines of the log, where non-finite losses are detected."""
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Programs that get losses and validation figures too."""

    @field_validator("tokenizer", mode="before")
    @classmethod
    def _check_tokenizer_kind(cls, value: Any) -> Any:
        if isinstance(value, dict) and "kind" not in value:
            raise ValueError(
                f"has no kind, but {', '.join(map(str, value)) or 'nothing'}; set kind and config, "
                "such as {kind: neural_codec, config: {name: facebook/encodec_24khz, samples: "
                "24000}}, or the name of a model"
            )
        if not isinstance(value, str | dict | PartConfig | None):
            raise ValueError(
                f"is a {type(value).__name__}; settings hold the name of a model, or kind and "
                "config; pass an object as train(..., tokenizer=...)"
            )
        return value

    @model_validator(mode="after")
    def _check_tokenizer(self) -> Self:
        if self.tokenizer is not None and self.decoder_gan is not None:
            raise ValueError("decoder_gan trains an autoencoder, and tokenizer is given; drop one")
        if self.tokenizer is not None and self.prior is None:
            raise ValueError("tokenizer is given and prior is null, so nothing is left to train")
        return self


class DistributedConfig(Config):
    """Number of training processes, and how they share batches and weights.

    It is no part of the configuration of a run: it may change whenever the run resumes.
    """

    devices: int = Field(1, ge=1, le=2**16)
    """Processes on each machine, one per device; under `torchrun`, its settings apply instead."""
    nodes: int = Field(1, ge=1, le=2**16)
    """Number of machines.

    Each runs the same command, with MASTER_ADDR, MASTER_PORT and its own NODE_RANK set.
    """
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Microbatches into which each process splits its batch shard, to save memory.

    Their gradients are accumulated, so the number does not change the batch.
    """

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several processes hold the weights; checkpoints are the same for both.

    `ddp`: each process holds all weights. `fsdp`: weights, gradients and optimizer states are
    sharded except in validation, for models too large to train on one device.
    """

    @property
    def world_size(self) -> int:
        """Return the number of processes on all machines."""
        return self.devices * self.nodes


SINGLE_PROCESS = DistributedConfig()
"""Configuration of a run with one process."""


def torchrun_config() -> DistributedConfig | None:
    """Return the configuration of a launcher such as `torchrun`; None: there is no launcher."""
    if not {"LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"} <= os.environ.keys():
        return None
    devices, count = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return DistributedConfig(devices=devices, nodes=count // devices)
