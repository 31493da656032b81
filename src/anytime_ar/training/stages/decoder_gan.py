"""Adversarial fine-tuning of the decoder of images (Goodfellow et al. 2014, arXiv 1406.2661).

From few codes, the squared error is lowest for the mean of all images that share them, which is
blurred. On MNIST this blur, and not the information in the codes, separates short prefixes from
the data. So this stage trains the decoder with an adversarial loss beside the squared error.
Encoder and codebooks are frozen: samples keep their codes, and a prior of these codes stays valid.

The discriminator is conditioned on the number of codes by projection (Miyato and Koyama 2018,
arXiv 1802.05637), but not on the codes. Each prefix belongs to a single training image, so a
discriminator that sees the codes rejects every decoded image, and training does not converge. The
squared error keeps images close to their codes. R1 regularisation smooths the discriminator
(Mescheder et al. 2018, arXiv 1801.04406).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from anytime_ar.autoencoder import OrderedAutoencoder
from anytime_ar.data import DataSplits
from anytime_ar.runtime.distributed import FULL_BATCH, BatchShard, DistributedContext
from anytime_ar.runtime.seeding import seeded
from anytime_ar.training.config import DecoderGANConfig, TrainConfig
from anytime_ar.training.stages import Losses
from anytime_ar.training.stages.autoencoder import ReconstructionStage

MIN_MAP_SIZE = 8
"""Largest side of the discriminator's last feature map, in positions."""
R1_INTERVAL = 4
"""Steps between two R1 penalties, each with a weight that is larger by this factor.

This is lazy regularisation (Karras et al. 2020, arXiv 1912.04958). A penalty costs as much as the
rest of a step.
"""


class Discriminator(nn.Module):
    """A convolutional discriminator of real and decoded images.

    Args:
        config: Configuration with the width of the network.
        sample_shape: Shape of an image, (C, H, W).
        code_length: Number L of codes of a whole sample.
    """

    def __init__(
        self, config: DecoderGANConfig, sample_shape: tuple[int, ...], code_length: int
    ) -> None:
        """Build the layers, with a zero embedding of the number of codes."""
        super().__init__()
        channels, *sides = sample_shape
        layers: list[nn.Module] = []
        width = channels
        while max(sides) > MIN_MAP_SIZE and min(sides) > 1:
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
        """Return the discriminator's logits, which are higher for images that look real.

        Args:
            x: Images, float [B, C, H, W] in [-1, 1].
            num_kept: Number of codes that each image is decoded from, int64 [B].

        Returns:
            Logits, float32 [B].
        """
        maps = self.body(x.contiguous(memory_format=torch.channels_last))
        projection = (maps.mean((2, 3)) * self.prefix_embedding(num_kept)).sum(1)
        return (self.head(maps.flatten(1))[:, 0] + projection).float()


class DecoderGANObjective(nn.Module):
    """Losses of decoder and discriminator, which one step updates together.

    Args:
        autoencoder: Trained autoencoder; only its decoder changes.
        config: Weights of the losses and the distribution of the number of codes.
    """

    def __init__(self, autoencoder: OrderedAutoencoder, config: DecoderGANConfig) -> None:
        """Freeze the encoder and build the discriminator."""
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
        """Return the losses of a batch shard; their mean over all shards is the batch's loss.

        Args:
            x: Images, float32 [B, C, H, W] in [-1, 1].
            step: Step of the stage, from 0.
            generator: CPU generator of this step.
            shard: Which shard of the batch `x` is.

        Returns:
            `loss`, the sum, and its terms `error`, `adversarial` (without its weight) and
            `discriminator`.
        """
        batch_num_kept = self.truncation.sample(shard.global_batch_size(len(x)), generator)
        num_kept = shard.local_slice(batch_num_kept).to(x.device)
        model = self.autoencoder
        with torch.no_grad():
            vectors = model.quantizer.lookup(model.quantizer.encode(model.encode_vectors(x)))
        decoded = model.decode_vectors(vectors, num_kept).samples.float()
        discriminator = self._discriminator_loss(x, decoded.detach(), num_kept, step)
        # The adversarial loss trains the decoder alone: the discriminator's weights are detached.
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        logits = functional_call(self.discriminator, fixed, (decoded, num_kept))
        adversarial = F.softplus(-logits).mean()
        error = (decoded - x).square().mean()
        return {
            "loss": error + self.config.adversarial_weight * adversarial + discriminator,
            "error": error,
            "adversarial": adversarial,
            "discriminator": discriminator,
        }

    def _discriminator_loss(
        self, x: Tensor, decoded: Tensor, num_kept: Tensor, step: int
    ) -> Tensor:
        """Return the discriminator's loss, with the R1 penalty in every `R1_INTERVAL`th step."""
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
    """The stage that fine-tunes the decoder, between those of the autoencoder and of the prior.

    Its validation errors rise, because the adversarial loss trades squared error for detail.
    """

    name = "decoder_gan"

    def __init__(
        self,
        autoencoder: OrderedAutoencoder,
        data: DataSplits,
        config: TrainConfig,
        distributed: DistributedContext,
    ) -> None:
        """Build decoder and discriminator losses, and start reading the batches."""
        options = config.decoder_gan
        assert options is not None
        super().__init__(autoencoder, data, config, options, distributed)
        with seeded(config.seed, "discriminator"):
            self.objective = DecoderGANObjective(autoencoder, options)

    def batch(self, step: int) -> tuple[Tensor, int]:
        """Return this process's images of a step, and the step."""
        return next(self.batches).data, step

    def timing_batches(self, batch_size: int) -> list[tuple[Tensor, int]]:
        """Return batches of white noise for as many steps as one R1 penalty serves."""
        return [(self.noise_batch(batch_size), step) for step in range(R1_INTERVAL)]
