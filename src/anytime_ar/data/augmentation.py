"""Augment training batches at random.

Images are flipped, shifted, rotated and scaled; audio is delayed, resampled and attenuated.
Validation and test data are never augmented. Each sample of a batch has its own random parameters.
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
    """The ranges of random audio augmentation; the default changes nothing."""

    delay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest delay, as a share of the clip length; never longer than the silence at the clip's
    end."""
    speed: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest relative change of speed, which also changes the pitch: 0.1 gives factors from 0.9 to
    1.1."""
    attenuation_db: float = Field(default=0.0, ge=0.0, le=60.0)
    """Largest random attenuation, in dB (0 to 60)."""
    invert_polarity: bool = False
    """Invert the sign of the waveform with probability 0.5, which is inaudible."""


class AugmentationConfig(Config):
    """The ranges of random augmentation; the default changes nothing."""

    flip: bool = False
    """Mirror an image left to right with probability 0.5."""
    shift: float = Field(default=0.0, ge=0.0)
    """Largest shift of an image along each axis, in pixels."""
    rotate: float = Field(default=0.0, ge=0.0, le=180.0)
    """Largest rotation of an image in either direction, in degrees."""
    scale: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest relative change of an image's size: 0.1 gives factors from 0.9 to 1.1."""
    audio: AudioAugmentationConfig = AudioAugmentationConfig()
    """Random augmentation of audio clips."""


NO_AUGMENTATION = AugmentationConfig()
"""Configuration that leaves every sample unchanged."""


def augment(
    samples: Tensor,
    config: AugmentationConfig,
    generator: torch.Generator,
    shard: BatchShard = FULL_BATCH,
) -> Tensor:
    """Augment each sample at random within the ranges of the configuration.

    Args:
        samples: float32 [B, C, H, W] or [B, C, T] in [-1, 1], on the CPU.
        config: the ranges.
        generator: the only source of randomness.
        shard: the shard of the global batch that the samples are.

    Returns:
        The same shape, in [-1, 1]; `samples` itself if the configuration changes nothing.
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
    """Return uniform random numbers in [0, 1), float32 [count, B].

    The numbers of the global batch are generated and sliced, so that they do not depend on the
    number of shards.

    Args:
        count: numbers per sample.
        samples: the batch, of length B.
        generator: the only source of randomness.
        shard: the shard of the global batch that the samples are.
    """
    return shard.local_slice(
        torch.rand(count, shard.global_batch_size(len(samples)), generator=generator), dim=1
    )


def random_crops(
    clips: Tensor, length: int, generator: torch.Generator, shard: BatchShard = FULL_BATCH
) -> Tensor:
    """Crop each clip at random to a length, without cropping into its trailing silence.

    Args:
        clips: int16 [B, C, S]; zeros pad a clip that ends before S.
        length: length T of a crop, in samples; T <= S.
        generator: the only source of randomness.
        shard: the shard of the global batch that the clips are.

    Returns:
        int16 [B, C, T]; `clips` itself if T = S.
    """
    batch, channels, stored = clips.shape
    if length == stored:
        return clips
    sounds = (clips != 0).any(1)  # [B, S]
    ends = torch.where(sounds, torch.arange(1, stored + 1), 0).amax(dim=1)  # [B]
    room = (ends - length).clamp_min(0) + 1
    draws = torch.rand(shard.global_batch_size(batch), generator=generator, dtype=torch.float64)
    starts = (shard.local_slice(draws) * room).long()
    indices = starts[:, None] + torch.arange(length)  # [B, T]
    return clips.gather(2, indices[:, None].expand(-1, channels, -1))


def _augment_audio(
    clips: Tensor, config: AudioAugmentationConfig, generator: torch.Generator, shard: BatchShard
) -> Tensor:
    """Delay, resample, attenuate and invert clips at random: float32 [B, C, T] to the same.

    Args:
        clips: float32 [B, C, T] in [-1, 1].
        config: the ranges.
        generator: the only source of randomness.
        shard: the shard of the global batch that the clips are.
    """
    if config == AudioAugmentationConfig():
        return clips
    length = clips.shape[-1]
    draws = _uniform_draws(4, clips, generator, shard)
    factor = 1 + (draws[0] * 2 - 1) * config.speed  # [B]
    positions = torch.arange(length)
    sounds = (clips != 0).any(1)  # [B, T]
    ends = torch.where(sounds, positions, 0).amax(dim=1) / factor  # [B], at new speed
    delay = draws[1] * torch.clamp(length - 1 - ends, 0, config.delay * length)  # [B]
    if not config.speed:
        delay = delay.round()  # a whole number of samples needs no interpolation
    positions = (positions - delay[:, None]) * factor[:, None]  # [B, T], source positions
    clips = torch.stack([_interpolate_cubic(one, positions) for one in clips.unbind(1)], dim=1)
    gain = 10 ** (-draws[2] * config.attenuation_db / 20)  # [B]
    if config.invert_polarity:
        gain = torch.where(draws[3] < 0.5, -gain, gain)
    return (clips * gain[:, None, None]).clamp(-1.0, 1.0)  # cubics overshoot


def _interpolate_cubic(signals: Tensor, positions: Tensor) -> Tensor:
    """Interpolate signals at fractional positions with Catmull-Rom cubics; 0 outside the signal.

    Args:
        signals: float [B, T].
        positions: float [B, T], in samples.

    Returns:
        float [B, T].
    """
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
    """Rotate, scale and shift images by one bicubic resampling, with border padding.

    Bilinear resampling would blur the images that a prior learns from
    (docs/experiments/augmentation.md). The border is repeated because its value is the background
    of any data set: -1 in MNIST, anything in photographs.

    Args:
        images: float32 [B, C, H, W] in [-1, 1].
        config: the ranges.
        generator: the only source of randomness.
        shard: the shard of the global batch that the images are.
    """
    height, width = images.shape[2:]
    draws = _uniform_draws(4, images, generator, shard) * 2 - 1  # [4, B] in [-1, 1]
    angle = draws[0] * math.radians(config.rotate)  # [B]
    factor = 1 + draws[1] * config.scale  # [B]
    # affine_grid maps output to input positions, hence the inverse factor. Its coordinates are
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
    augmented = F.grid_sample(images, grid, "bicubic", padding_mode="border", align_corners=False)
    return augmented.clamp(-1.0, 1.0)  # cubic interpolation overshoots
