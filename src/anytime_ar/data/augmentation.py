"""Random changes of training batches: flips and small affine changes of images; delay, speed and
loudness of sounds.

Nothing here touches validation or test data. Each sample of a batch draws its own parameters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from anytime_ar.config import Config
from anytime_ar.runtime.distributed import FULL_BATCH, BatchShard


class AudioAugmentationConfig(Config):
    """How far a training sound may be changed; the default changes nothing."""

    delay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest delay, as a share of the length; as far as the silence at the end allows."""
    speed: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest relative change of speed, which changes the pitch as well: 0.1 draws factors from 0.9
    to 1.1."""
    attenuation_db: float = Field(default=0.0, ge=0.0, le=60.0)
    """Largest loss of loudness."""
    invert_polarity: bool = False
    """Change the sign with probability one half, which nobody hears."""


class AugmentationConfig(Config):
    """How far a training sample may be changed; the default changes nothing."""

    flip: bool = False
    """Mirror an image left-right with probability one half."""
    shift: float = Field(default=0.0, ge=0.0)
    """Largest shift of an image along each axis, in pixels."""
    rotate: float = Field(default=0.0, ge=0.0, le=180.0)
    """Largest rotation of an image either way, in degrees."""
    scale: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest relative change of an image's size: 0.1 draws factors from 0.9 to 1.1."""
    audio: AudioAugmentationConfig = AudioAugmentationConfig()


NO_AUGMENTATION = AugmentationConfig()


def augment(
    samples: Tensor,
    config: AugmentationConfig,
    generator: torch.Generator,
    shard: BatchShard = FULL_BATCH,
) -> Tensor:
    """Change each sample at random within the bounds of `config`.

    Args:
        samples: float32 [B, C, H, W] or [B, 1, T] in [-1, 1], on the CPU.
        generator: the only source of randomness.
        shard: of a batch that the samples are.

    Returns:
        The same shape, in [-1, 1]; `samples` itself when `config` changes nothing.
    """
    if samples.ndim == 3:
        return _augment_audio(samples, config.audio, generator, shard)
    if config.flip:
        mirrored = _uniform_draws(1, samples, generator, shard)[0] < 0.5  # [B]
        samples = torch.where(mirrored[:, None, None, None], samples.flip(-1), samples)
    if config.shift or config.rotate or config.scale:
        samples = _random_affine(samples, config, generator, shard)
    return samples


def _uniform_draws(
    count: int, samples: Tensor, generator: torch.Generator, shard: BatchShard
) -> Tensor:
    """Numbers in [0, 1) for each sample: [count, B]."""
    return shard.local_slice(
        torch.rand(count, shard.global_batch_size(len(samples)), generator=generator), dim=1
    )


def random_crops(
    clips: Tensor, length: int, generator: torch.Generator, shard: BatchShard = FULL_BATCH
) -> Tensor:
    """Cut each sound at random to a length, but not into the silence that follows it.

    Args:
        clips: int16 [B, 1, S]; a sound that ends before S is followed by zeros.
        length: T <= S.
        generator: the only source of randomness.
        shard: of a batch that the sounds are.

    Returns:
        int16 [B, 1, T]; `clips` itself where T = S.
    """
    batch, _, stored = clips.shape
    if length == stored:
        return clips
    ends = torch.where(clips[:, 0] != 0, torch.arange(1, stored + 1), 0).amax(dim=1)  # [B]
    room = (ends - length).clamp_min(0) + 1
    draws = torch.rand(shard.global_batch_size(batch), generator=generator, dtype=torch.float64)
    starts = (shard.local_slice(draws) * room).long()
    places = starts[:, None] + torch.arange(length)  # [B, T]
    return clips[:, 0].gather(1, places)[:, None]


def _augment_audio(
    clips: Tensor, config: AudioAugmentationConfig, generator: torch.Generator, shard: BatchShard
) -> Tensor:
    """float32 [B, 1, T] -> the same."""
    if config == AudioAugmentationConfig():
        return clips
    length = clips.shape[-1]
    draws = _uniform_draws(4, clips, generator, shard)
    factor = 1 + (draws[0] * 2 - 1) * config.speed  # [B]
    places = torch.arange(length)
    ends = torch.where(clips[:, 0] != 0, places, 0).amax(dim=1) / factor  # [B], after the change
    delay = draws[1] * torch.clamp(length - 1 - ends, 0, config.delay * length)  # [B]
    if not config.speed:
        delay = delay.round()  # whole samples need no interpolation
    places = (places - delay[:, None]) * factor[:, None]  # [B, T]: where each sample comes from
    clips = _interpolate_cubic(clips[:, 0], places)[:, None]
    gain = 10 ** (-draws[2] * config.attenuation_db / 20)  # [B]
    if config.invert_polarity:
        gain = torch.where(draws[3] < 0.5, -gain, gain)
    return (clips * gain[:, None, None]).clamp(-1.0, 1.0)  # cubics overshoot


def _interpolate_cubic(signals: Tensor, positions: Tensor) -> Tensor:
    """Values of float [B, T] lines at real places [B, T], by cubics (Catmull-Rom); 0 outside."""
    length = signals.shape[1]
    whole = positions.floor()
    t = positions - whole
    padded = F.pad(signals, (2, 3))
    first = (whole.long() + 1).clamp(0, length + 1)
    a, b, c, d = (padded.gather(1, first + i) for i in range(4))
    slope_b, slope_c = (c - a) / 2, (d - b) / 2
    bend, twist = 3 * (c - b) - 2 * slope_b - slope_c, 2 * (b - c) + slope_b + slope_c
    inside = (positions > -1) & (positions < length)
    return torch.where(inside, b + t * (slope_b + t * (bend + t * twist)), 0)


def _random_affine(
    images: Tensor, config: AugmentationConfig, generator: torch.Generator, shard: BatchShard
) -> Tensor:
    """Rotate, scale and shift by one bicubic sampling; pixels from outside repeat the border.

    Bilinear sampling would blur what a prior learns from (docs/experiments.md, "Do moved images
    look like images?").

    The border is repeated because its value is the background whatever that is: -1 in MNIST,
    anything in photographs.
    """
    height, width = images.shape[2:]
    draws = _uniform_draws(4, images, generator, shard) * 2 - 1  # [4, B] in [-1, 1]
    angle = draws[0] * math.radians(config.rotate)  # [B]
    factor = 1 + draws[1] * config.scale  # [B]
    # affine_grid maps output to input positions, hence the inverse factor; its coordinates run over
    # [-1, 1] on both axes, so rotation needs the aspect ratio.
    cos, sin = torch.cos(angle) / factor, torch.sin(angle) / factor
    right = draws[2] * config.shift * 2 / width
    down = draws[3] * config.shift * 2 / height
    theta = torch.stack(
        [
            torch.stack([cos, -sin * height / width, right], dim=-1),
            torch.stack([sin * width / height, cos, down], dim=-1),
        ],
        dim=1,
    )  # [B, 2, 3]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)  # [B, H, W, 2]
    moved = F.grid_sample(images, grid, "bicubic", padding_mode="border", align_corners=False)
    return moved.clamp(-1.0, 1.0)  # cubics overshoot
