"""A small classifier whose penultimate layer gives the features of the Fréchet distance.

FID (Heusel et al. 2017, arXiv 1706.08500) compares images in the feature space of a classifier of
natural images. For small images a classifier trained on the same data set sees more of what
matters, needs no download and runs on a CPU. The features are a rectified linear layer over the
last maps, as in the usual small digit classifier. A global average in its place would forget where
things are: on MNIST it left 97 % of the variance in the nine directions that tell the classes
apart, and a distance that hardly sees how a digit is drawn.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from anytime_ar.config import Config
from anytime_ar.errors import BundleError, InputError, TrainingError
from anytime_ar.evaluation.protocols import Progress, Split, silent
from anytime_ar.files import write_atomically, write_json

SMALLEST_SIDE = 8


class FeatureConfig(Config):
    """The feature network and its training."""

    width: int = Field(default=16, ge=4)
    """Channels of the first stage; the last has four times as many."""
    features: int = Field(default=128, ge=2)
    """F, the size of the penultimate layer."""
    steps: int = Field(default=2500, ge=10)
    """Optimizer steps; fewer than 10 leave no room for the schedule's warm-up."""
    batch_size: int = Field(default=128, ge=2)
    """Images in a step."""
    learning_rate: float = Field(default=0.003, gt=0, allow_inf_nan=False)
    """Peak of the one-cycle schedule."""
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """AdamW's decay."""
    label_smoothing: float = Field(default=0.02, ge=0, lt=1)
    """Probability spread over the other labels."""
    shift: float = Field(default=0.07, ge=0, lt=0.5)
    """Random shift of training images in each direction, as a fraction of the side (2 px of 28)."""
    seed: int = 0
    """Seeds the weights, the order of the images and the shifts."""


class FeatureNetwork(nn.Module):
    """Convolutions with batch normalisation, halving down to a side of at least 4, then two layers.

    Args:
        config: width of the network.
        sample_shape: (C, H, W) with sides of at least 8.
        label_count: number of classes.

    Raises:
        InputError: the samples are not images of at least 8x8, or there are fewer than two labels.
    """

    def __init__(
        self, config: FeatureConfig, sample_shape: tuple[int, ...], label_count: int
    ) -> None:
        super().__init__()
        if len(sample_shape) != 3 or min(sample_shape[1:]) < SMALLEST_SIDE:
            raise InputError(
                f"features need samples of shape (C, H, W) with sides of at least {SMALLEST_SIDE}, "
                f"got {sample_shape}; resize the data set"
            )
        if label_count < 2:
            raise InputError(
                f"features need at least 2 labels to tell apart, got {label_count}; "
                "pass a features folder trained elsewhere"
            )
        self.config, self.sample_shape, self.label_count = config, sample_shape, label_count
        halvings = max(1, int(math.log2(min(sample_shape[1:]) / 7)))
        widths = [config.width * min(2**i, 4) for i in range(halvings)] + [4 * config.width]
        layers = [_convolution(sample_shape[0], widths[0], stride=1)]
        for narrow, wide in itertools.pairwise(widths):
            layers += [_convolution(narrow, wide, stride=2), _convolution(wide, wide, stride=1)]
        self.body = nn.Sequential(*layers)
        side = -(-sample_shape[1] // 2**halvings), -(-sample_shape[2] // 2**halvings)
        self.num_features: int = config.features
        self.neck = nn.Linear(widths[-1] * side[0] * side[1], self.num_features)
        self.head = nn.Linear(self.num_features, label_count)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Images float32 [B, C, H, W] in [-1, 1] to features float32 [B, F]."""
        maps: Tensor = self.body(x.contiguous(memory_format=torch.channels_last))  # [B, F, h, w]
        features: Tensor = self.neck(maps.flatten(1))
        return features.float().relu()

    def logits(self, x: Tensor) -> Tensor:
        """Images float32 [B, C, H, W] in [-1, 1] to unnormalised log-probabilities [B, labels]."""
        scores: Tensor = self.head(self(x))
        return scores


def _convolution(narrow: int, wide: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(narrow, wide, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(inplace=True),
    )


def train_features(
    train: Split,
    config: FeatureConfig,
    *,
    label_count: int,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> FeatureNetwork:
    """Train a classifier on labelled images; bfloat16 where the arithmetic is dense.

    Args:
        train: the data set's training split.
        label_count: number of classes; labels are 0 .. label_count - 1.
        progress: called after every step with the loss.

    Returns:
        The network in evaluation mode, on `device`.

    Raises:
        InputError: the data set has no labels, or its samples are not images of at least 8x8.
        TrainingError: the loss is not finite.
    """
    device = torch.device(device)
    batches = train.shuffled(config.batch_size, config.seed)
    batch = next(batches)
    with torch.random.fork_rng(devices=[]):  # layers initialise from the global generator
        torch.manual_seed(config.seed)
        network = FeatureNetwork(config, tuple(batch.data.shape[1:]), label_count)
    network.to(device).train()
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps + 1, pct_start=0.2
    )
    for step in range(1, config.steps + 1):
        labels = _labels(batch.labels).to(device)
        images = shifted(batch.data, config.shift, generator).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = network.logits(images)
        loss = nn.functional.cross_entropy(
            logits.float(), labels, label_smoothing=config.label_smoothing
        )
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the feature classifier's loss is {loss.item()} at step {step}; "
                f"lower learning_rate (now {config.learning_rate})"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(step, config.steps, f"loss {loss.item():.3f}")
        if step < config.steps:
            batch = next(batches)
    return network.eval()


def shifted(images: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Each image [B, C, H, W] moved by up to `fraction` of its sides, edges repeated."""
    count, _, height, width = images.shape
    down, right = round(fraction * height), round(fraction * width)
    padded = nn.functional.pad(images, (right, right, down, down), mode="replicate")
    tops = torch.randint(0, 2 * down + 1, (count, 1, 1), generator=generator)
    lefts = torch.randint(0, 2 * right + 1, (count, 1, 1), generator=generator)
    rows = tops + torch.arange(height)[:, None]  # [B, H, 1]
    columns = lefts + torch.arange(width)  # [B, 1, W]
    pixels = padded[torch.arange(count)[:, None, None], :, rows, columns]  # [B, H, W, C]
    return pixels.permute(0, 3, 1, 2)  # [B, C, H, W]


def _labels(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise InputError(
            "Fréchet distances need features of a classifier, and this data set has no labels to "
            "train one; pass a features folder trained elsewhere"
        )
    return labels


@torch.no_grad()
def accuracy(network: FeatureNetwork, split: Split, *, batch_size: int = 512) -> float:
    """The fraction of `split` that the classifier gets right, in [0, 1].

    Raises:
        InputError: the data set has no labels.
    """
    device = network.head.weight.device
    right = seen = 0
    for batch in split.batches(batch_size):
        guesses = network.logits(batch.data.to(device)).argmax(dim=1).cpu()
        right += int((guesses == _labels(batch.labels)).sum())
        seen += len(guesses)
    return right / seen


class _Card(Config):
    """features.json: all that is needed to rebuild the network, and what it was measured at."""

    format_version: Literal[1] = 1
    config: FeatureConfig
    sample_shape: tuple[int, int, int]
    label_count: int
    test_accuracy: float = Field(ge=0, le=1)
    sha256: str


class Features(NamedTuple):
    """A feature network and how good a classifier it is."""

    network: FeatureNetwork
    test_accuracy: float


def save_features(features: Features, folder: Path) -> None:
    """Write features.safetensors and features.json; each appears whole or not at all."""
    from safetensors.torch import save

    network = features.network
    weights = save({key: value.cpu().contiguous() for key, value in network.state_dict().items()})
    card = _Card(
        config=network.config,
        sample_shape=network.sample_shape,
        label_count=network.label_count,
        test_accuracy=features.test_accuracy,
        sha256=hashlib.sha256(weights).hexdigest(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "features.safetensors", lambda file: file.write(weights))
    write_json(folder / "features.json", card.model_dump(mode="json"))


def load_features(folder: Path, *, device: torch.device | str = "cpu") -> Features:
    """Read what `save_features` wrote; the network is in evaluation mode.

    Raises:
        BundleError: a file is missing or altered, or the folder holds something else.
    """
    from safetensors.torch import load

    for name in ("features.json", "features.safetensors"):
        if not (folder / name).is_file():
            raise BundleError(
                f"{folder} has no {name}, so it is not a features folder; make one with "
                "`anytime features`"
            )
    try:
        values = json.loads((folder / "features.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{folder / 'features.json'} is not JSON: {error}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != 1:
        raise BundleError(
            f"{folder / 'features.json'} has format_version {version!r}, expected 1; "
            "train the features again with `anytime features`"
        )
    try:
        card = _Card.parse(values, origin=str(folder / "features.json"))
    except InputError as error:
        raise BundleError(str(error)) from error
    weights = (folder / "features.safetensors").read_bytes()
    if hashlib.sha256(weights).hexdigest() != card.sha256:
        raise BundleError(
            f"{folder / 'features.safetensors'} does not match the checksum in features.json; it "
            "was altered or half copied: copy the folder again, or run `anytime features`"
        )
    with torch.random.fork_rng(devices=[]):  # the first weights are overwritten at once
        network = FeatureNetwork(card.config, card.sample_shape, card.label_count)
    try:
        network.load_state_dict(load(weights))
    except RuntimeError as error:
        raise BundleError(
            f"{folder / 'features.safetensors'} does not fit the network in features.json"
        ) from error
    return Features(network.to(device).eval(), card.test_accuracy)
