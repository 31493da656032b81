"""Random flips and small affine changes of training batches.

Nothing here touches validation or test data. Each sample of a batch draws its own parameters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from anytime_ar.config import Config


class AugmentationConfig(Config):
    """How far a training image may be changed; the default changes nothing."""

    flip: bool = False
    """Mirror left-right with probability one half."""
    shift: float = Field(default=0.0, ge=0.0)
    """Largest shift along each axis, in pixels."""
    rotate: float = Field(default=0.0, ge=0.0, le=180.0)
    """Largest rotation either way, in degrees."""
    scale: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest relative change of size: 0.1 draws factors from 0.9 to 1.1."""


NO_AUGMENTATION = AugmentationConfig()


def augment(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Change each image at random within the bounds of `config`.

    Args:
        images: float32 [B, C, H, W] in [-1, 1], on the CPU.
        generator: the only source of randomness.

    Returns:
        float32 [B, C, H, W] in [-1, 1]; `images` itself when `config` changes nothing.
    """
    if config.flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5  # [B]
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    if config.shift or config.rotate or config.scale:
        images = _affine(images, config, generator)
    return images


def _affine(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Rotate, scale and shift by one bilinear sampling; pixels from outside repeat the border.

    The border is repeated because its value is the background whatever that is: -1 in MNIST,
    anything in photographs.
    """
    batch, _, height, width = images.shape
    draws = torch.rand(4, batch, generator=generator) * 2 - 1  # [4, B] in [-1, 1]
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
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved.clamp(-1.0, 1.0)  # interpolation rounds past the ends by 1e-7
