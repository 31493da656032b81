"""Everything that a training run is made of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from anytime_ar.autoencoder import AutoencoderConfig, TruncationConfig
from anytime_ar.config import Config
from anytime_ar.data import AugmentationConfig, DataConfig
from anytime_ar.prior import PriorConfig, SamplingParams

TrainingPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Number formats of training, as Fabric calls them."""


class OptimizerConfig(Config):
    """AdamW or Muon with linear warm-up and cosine decay to zero."""

    kind: Literal["adamw", "muon"] = "adamw"
    """What moves the matrices of linear maps: AdamW as all else, or Muon (Jordan et al. 2024), of
    which a step costs more and brings a Transformer further."""

    learning_rate: float = Field(1e-3, gt=0)
    """The highest, reached after warm-up."""
    weight_decay: float = Field(1e-4, ge=0)
    """On matrices and convolutions; biases, norms, embeddings and codebooks are left alone."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, gt=0, lt=1)
    warmup_steps: int = Field(100, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    """Longest gradient."""


class AutoencoderTrainingConfig(Config):
    """How the ordered autoencoder is trained."""

    scheme: Literal["one_stage", "two_stage", "full_and_prefix"] = "one_stage"
    """`one_stage`: reconstruct from a random prefix, as `truncation` draws it; `two_stage` (paper):
    half of the steps from all codes, then from a random prefix; `full_and_prefix`: from all codes
    and from a random prefix in every step, at twice the work of the decoder (with which
    `truncation.full_probability` is best 0)."""
    truncation: TruncationConfig = TruncationConfig()
    truncation_per: Literal["sample", "batch"] = "sample"
    """Draw the number of kept codes for each sample, or (paper) once for a batch."""
    stft_loss_weight: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Of the multi-resolution STFT distance of sounds, beside the squared error; 0: without."""
    steps: int = Field(3000, ge=1)
    batch_size: int = Field(128, ge=1)
    codebook_init_samples: int = Field(4096, ge=1)
    """Samples whose code vectors choose the first codebook."""
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Keep a moving average of the weights and use it in the end; None: the last weights."""


class DecoderGANConfig(Config):
    """How the decoder goes on learning, against a discriminator of images; see `decoder_gan`."""

    adversarial_weight: float = Field(0.1, gt=0, allow_inf_nan=False)
    """Of what the discriminator says, beside the squared error."""
    r1_gamma: float = Field(0.1, ge=0, allow_inf_nan=False)
    """On how steep the discriminator is at real images."""
    discriminator_width: int = Field(32, ge=1)
    """Channels of the discriminator's first convolution, and twice as many in each further one."""
    truncation: TruncationConfig = TruncationConfig(full_probability=0)
    """How many codes the decoder sees."""
    steps: int = Field(4000, ge=1)
    batch_size: int = Field(64, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=6e-4, beta1=0.5, clip_norm=10)
    ema_decay: float = Field(0.999, gt=0, lt=1)
    """Of the moving average of the weights, which is used in the end."""


class PriorTrainingConfig(Config):
    """How the prior is trained, on codes that are computed once."""

    steps: int = Field(3000, ge=1)
    batch_size: int = Field(256, ge=1)
    prefix_fractions: tuple[float, ...] = (1.0,)
    """Shares of the code length, (0, 1], that the sequences of a step are cut to, by turns. Of
    shorter ones a batch holds more, so that every step sees as many codes: the first ones decide
    what a sample will be, and are cheapest to learn by themselves."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Of the samples before they are encoded."""
    augmented_copies: int = Field(1, ge=1)
    """How often each training sample is encoded, augmented anew each time."""
    code_noise: float = Field(0.0, ge=0, lt=1)
    """Share of the codes that the prior sees replaced by random entries (never those it
    predicts)."""
    validate_every: int = Field(250, ge=1)
    patience: int = Field(4, ge=1)
    """Stop after so many validations without a better loss; the best weights are kept."""
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: float | None = Field(0.995, gt=0, lt=1)
    """Keep a moving average of the weights and validate and use it; None: the weights as they
    are."""

    @field_validator("prefix_fractions")
    @classmethod
    def _check_prefix_fractions(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if not fractions or not all(0 < share <= 1 for share in fractions):
            raise ValueError(
                f"prefix_fractions must be in (0, 1], e.g. [0.25, 1], got {[*fractions]}"
            )
        return fractions


class TrainConfig(Config):
    """A training run: data, ordered autoencoder, adversarial fine-tuning of its decoder, and prior."""

    name: str = Field("model", min_length=1)
    """What the model is called in its bundle."""
    seed: int = Field(0, ge=0)
    """Of the model; the classifier that judges it has a `features.seed` of its own, so that models
    of all seeds have one judge."""
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    """Of the samples that the autoencoder is trained on."""
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    autoencoder_training: AutoencoderTrainingConfig = AutoencoderTrainingConfig()
    decoder_gan: DecoderGANConfig | None = None
    """None: the decoder stays as squared error leaves it. For images."""
    prior: PriorConfig | None = PriorConfig()
    """None: train the autoencoder alone."""
    prior_training: PriorTrainingConfig = PriorTrainingConfig()
    conditional: bool = True
    """Condition the prior on class labels, where the data has them."""
    sampling_params: SamplingParams = SamplingParams()
    """How the model chooses codes where a draw does not say otherwise."""
    weights_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the weights in the bundle."""
    precision: Literal["auto"] | TrainingPrecision = "auto"
    """Number format of training: float32, or mixed with bfloat16 or float16; `auto`: of the first
    two the faster one, which each stage of the run finds by timing and then keeps."""
    checkpoint_every_minutes: float = Field(5.0, gt=0)
    log_every: int = Field(50, ge=1)
    """Steps between two lines of the log; a loss that is not finite is noticed there."""
