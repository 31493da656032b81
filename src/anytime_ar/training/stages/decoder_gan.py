"""Sharpening: the decoder learns to draw what squared error only averages.

Of few codes, squared error wants the mean of all samples that share them, and a mean of images is
blurred: on MNIST it is what keeps few codes far from the data, not what the codes lack. Here the
decoder alone goes on learning, against a discriminator of images (Goodfellow et al. 2014, arXiv
1406.2661) beside the squared error. Encoder and codebooks stay, so samples keep their codes, and a
prior of those codes is as good as before.

The discriminator is told how many codes there are (a projection, Miyato and Koyama 2018, arXiv
1802.05637), but not which: one that is finds fault with every image, as there is but one of each
prefix, and the decoder never rests. The squared error keeps images near their codes. A penalty on
its gradients at real images keeps the discriminator smooth (Mescheder et al. 2018, arXiv
1801.04406).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from anytime_ar.autoencoder import OrderedAutoencoder
from anytime_ar.data import DataSplits
from anytime_ar.runtime.distributed import FULL_BATCH, BatchShard, DistributedContext
from anytime_ar.runtime.seeding import seeded
from anytime_ar.training.config import DecoderGANConfig, TrainConfig
from anytime_ar.training.stages.autoencoder import ReconstructionStage
from anytime_ar.training.stages.base import Losses

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MIN_MAP_SIZE = 8
"""The discriminator halves images down to at most so many positions a side."""
R1_INTERVAL = 4
"""Steps from one gradient penalty to the next, which counts as much more (Karras et al. 2020, arXiv
1912.04958): it costs as much as all the rest."""


class Discriminator(nn.Module):
    """Tells real images from decoded ones.

    Args:
        config: its width.
        sample_shape: (C, H, W).
        code_length: L.
    """

    def __init__(
        self, config: DecoderGANConfig, sample_shape: tuple[int, ...], code_length: int
    ) -> None:
        super().__init__()
        channels, *sides = sample_shape
        layers: list[nn.Module] = []
        width = channels
        while max(sides) > MIN_MAP_SIZE:
            wider = config.discriminator_width if not layers else 2 * width
            layers += [nn.Conv2d(width, wider, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            width, sides = wider, [side // 2 for side in sides]
        wider = 2 * width if layers else config.discriminator_width
        layers += [nn.Conv2d(width, wider, 3, padding=1), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(wider * sides[0] * sides[1], 1)
        self.prefix_embedding = nn.Embedding(code_length + 1, wider)
        nn.init.zeros_(self.prefix_embedding.weight)
        for layer in self.body:
            if isinstance(layer, nn.Conv2d) and layer.in_channels > 1:
                layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, num_kept: Tensor) -> Tensor:
        """How real images float [B, C, H, W] from `num_kept` (int64 [B]) codes are, unbounded: float
        [B]."""
        maps = self.body(x.contiguous(memory_format=torch.channels_last))
        for_kept = (maps.mean((2, 3)) * self.prefix_embedding(num_kept)).sum(1)
        return (self.head(maps.flatten(1))[:, 0] + for_kept).float()


class DecoderGANObjective(nn.Module):
    """Decoder and discriminator, each its own loss, in one step.

    Args:
        autoencoder: trained; only what decodes will change.
        config: weights of the losses.
    """

    def __init__(self, autoencoder: OrderedAutoencoder, config: DecoderGANConfig) -> None:
        super().__init__()
        autoencoder.freeze_encoder()
        self.autoencoder = autoencoder
        self.config = config
        self.discriminator = Discriminator(
            config, autoencoder.sample_shape, autoencoder.code_length
        )
        self.truncation = config.truncation.build(autoencoder.code_length)

    def forward(
        self, x: Tensor, step: int, generator: torch.Generator, shard: BatchShard = FULL_BATCH
    ) -> Losses:
        """Losses of a batch, or of a part of one.

        Args:
            x: float32 [B, C, H, W] in [-1, 1].
            step: of the stage, 0..
            generator: CPU randomness of this step.
            shard: of a batch that `x` is.
        """
        drawn_kept = self.truncation.sample(shard.global_batch_size(len(x)), generator)
        kept = shard.local_slice(drawn_kept).to(x.device)
        model = self.autoencoder
        with torch.no_grad():
            vectors = model.quantizer.lookup(model.quantizer.encode(model.encode_vectors(x)))
        drawn = model.decode_vectors(vectors, kept).samples.float()
        discriminator = self._discriminator_loss(x, drawn.detach(), kept, step)
        # Its weights are constants here: this part of the loss is the decoder's alone.
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        judged = functional_call(self.discriminator, fixed, (drawn, kept))
        adversarial = F.softplus(-judged).mean()
        error = (drawn - x).square().mean()
        return {
            "loss": error + self.config.adversarial_weight * adversarial + discriminator,
            "error": error,
            "adversarial": adversarial,
            "discriminator": discriminator,
        }

    def _discriminator_loss(
        self, x: Tensor, decoded: Tensor, num_kept: Tensor, step: int
    ) -> Tensor:
        penalized = step % R1_INTERVAL == 0
        x = x.float().requires_grad_(penalized)
        real = self.discriminator(x, num_kept)
        loss = F.softplus(-real).mean()
        loss = loss + F.softplus(self.discriminator(decoded, num_kept)).mean()
        if penalized:
            (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
            steepness = slope.square().flatten(1).sum(1).mean()
            loss = loss + R1_INTERVAL * self.config.r1_gamma / 2 * steepness
        return loss


class DecoderGANStage(ReconstructionStage):
    """Trains what decodes, between autoencoder and prior. Its validation errors rise: the price."""

    name = "decoder_gan"

    def __init__(
        self,
        autoencoder: OrderedAutoencoder,
        data: DataSplits,
        config: TrainConfig,
        distributed: DistributedContext,
    ) -> None:
        options = config.decoder_gan
        assert options is not None
        super().__init__(autoencoder, data, config, options, distributed)
        with seeded(config.seed, "discriminator"):
            self.objective = DecoderGANObjective(autoencoder, options)

    def initialize(self, fabric: Fabric) -> None:
        """Nothing: the decoder goes on from its weights."""

    def batch(self, step: int) -> tuple[Tensor, int]:
        return next(self.batches).data, step

    def timing_batches(self, batch_size: int) -> list[tuple[Tensor, int]]:
        return [(self.noise_batch(batch_size), step) for step in range(R1_INTERVAL)]
