"""A small classifier whose penultimate layer gives the features of the Fréchet distance.

FID (Heusel et al. 2017, arXiv 1706.08500) compares images in the feature space of a classifier of
natural images. For small images a classifier trained on the same data set sees more of what
matters, needs no download and runs on a CPU. The features are a rectified linear layer over the
last maps, as in the usual small digit classifier. A global average in its place would forget where
things are: on MNIST it left 97 % of the variance in the nine directions that tell the classes
apart, and a distance that hardly sees how a digit is drawn.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.spectra import log_mel_spectrogram

MIN_SIDE = 8


class FeatureExtractorConfig(Config):
    """The feature network and its training."""

    width: int = Field(default=16, ge=4)
    """Channels of the first stage; the last has four times as many."""
    features: int = Field(default=128, ge=2)
    """F, the size of the penultimate layer."""
    steps: int = Field(default=2500, ge=10)
    """Optimizer steps; fewer than 10 leave no room for the schedule's warm-up."""
    batch_size: int = Field(default=128, ge=2)
    """Samples in a step."""
    learning_rate: float = Field(default=0.003, gt=0, allow_inf_nan=False)
    """Peak of the one-cycle schedule."""
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """AdamW's decay."""
    label_smoothing: float = Field(default=0.02, ge=0, lt=1)
    """Probability spread over the other labels."""
    shift: float = Field(default=0.07, ge=0, lt=0.5)
    """Random shift of training samples along each axis, as a fraction of it (2 px of 28)."""
    noise: float = Field(default=0.0, ge=0, le=1)
    """Largest level of white noise in training samples, as a share of their own; drawn down to a
    hundredth of it. Sounds need some: without, what the classifier reads hangs on how silent the
    silence is."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Number format of training, as that of models; `auto`: the faster one, by timing."""
    seed: int = 0
    """Seeds the weights, the order of the samples and the shifts."""


class _ImageFrontEnd(nn.Module):
    """What the classifier sees of images: all of it."""

    def __init__(self, sample_shape: tuple[int, ...], sample_rate: int | None) -> None:
        super().__init__()
        assert sample_rate is None
        self.shape = sample_shape

    def forward(self, x: Tensor) -> Tensor:
        return x


class _LogMelFrontEnd(nn.Module):
    """What the classifier sees of sounds: loudness by mel band and time, as a picture."""

    def __init__(self, sample_shape: tuple[int, ...], sample_rate: int | None) -> None:
        super().__init__()
        if sample_rate is None:
            raise InputError("features of sounds need their rate; pass sample_rate in Hz")
        self.sample_rate = sample_rate
        self.shape = tuple(self(torch.zeros(1, *sample_shape)).shape[1:])

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            levels = log_mel_spectrogram(x, self.sample_rate)  # [B, 40, frames], -60 dB and above
        return levels[:, None] / 30 + 1


_FRONT_ENDS: dict[int, type[_ImageFrontEnd | _LogMelFrontEnd]] = {
    3: _ImageFrontEnd,
    2: _LogMelFrontEnd,
}
"""From samples to pictures [B, C, H, W], by the number of dimensions of a sample."""


class FeatureExtractor(nn.Module):
    """Convolutions with batch normalisation, halving down to a side of at least 4, then two layers.

    Args:
        config: width of the network.
        sample_shape: (C, H, W) with sides of at least 8, or (1, T) of sounds.
        label_count: number of classes.
        sample_rate: of sounds, in Hz.

    Raises:
        InputError: the samples are too small, sounds without a rate, or there are fewer than two
            labels.
    """

    def __init__(
        self,
        config: FeatureExtractorConfig,
        sample_shape: tuple[int, ...],
        label_count: int,
        sample_rate: int | None = None,
    ) -> None:
        super().__init__()
        front = _FRONT_ENDS.get(len(sample_shape))
        self.front = front(sample_shape, sample_rate) if front else None
        if self.front is None or min(self.front.shape[1:]) < MIN_SIDE:
            raise InputError(
                "features need images (C, H, W) with sides of at least "
                f"{MIN_SIDE}, or sounds (1, T) of 0.1 s or more, got {sample_shape}; "
                "resize the data set"
            )
        if label_count < 2:
            raise InputError(
                f"features need at least 2 labels to tell apart, got {label_count}; "
                "pass a features folder trained elsewhere"
            )
        self.config, self.sample_shape, self.label_count = config, sample_shape, label_count
        self.sample_rate = sample_rate
        channels, height, width = self.front.shape
        halvings = max(1, int(math.log2(min(height, width) / 7)))
        widths = [config.width * min(2**i, 4) for i in range(halvings)] + [4 * config.width]
        layers = [_convolution(channels, widths[0], stride=1)]
        for narrow, wide in itertools.pairwise(widths):
            layers += [_convolution(narrow, wide, stride=2), _convolution(wide, wide, stride=1)]
        self.body = nn.Sequential(*layers)
        side = -(-height // 2**halvings), -(-width // 2**halvings)
        self.num_features: int = config.features
        self.neck = nn.Linear(widths[-1] * side[0] * side[1], self.num_features)
        self.head = nn.Linear(self.num_features, label_count)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Samples float32 [B, *sample_shape] in [-1, 1] to features float32 [B, F]."""
        assert self.front is not None
        pictures = self.front(x).contiguous(memory_format=torch.channels_last)
        maps: Tensor = self.body(pictures)  # [B, F, h, w]
        features: Tensor = self.neck(maps.flatten(1))
        return features.float().relu()

    def to_images(self, x: Tensor) -> Tensor:
        """What features are made of, on the CPU: images as they are, spectra of sounds [B, C, H, W]
        from samples float32 [B, *sample_shape] anywhere."""
        assert self.front is not None
        return self.front(x.to(self.head.weight.device)).cpu()

    def logits(self, x: Tensor) -> Tensor:
        """Samples float32 [B, *sample_shape] in [-1, 1] to unnormalised log-probabilities
        [B, labels]."""
        scores: Tensor = self.head(self(x))
        return scores


def _convolution(narrow: int, wide: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(narrow, wide, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(inplace=True),
    )
