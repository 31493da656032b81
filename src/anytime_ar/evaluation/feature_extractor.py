"""The feature extractor: a small classifier whose penultimate layer defines the Fréchet distance.

FID (Heusel et al. 2017, arXiv 1706.08500) compares images in the feature space of a classifier of
natural images. For small images, a classifier trained on the same data set resolves more of the
relevant detail. It needs no download and runs on a CPU.

The features are a rectified linear layer over the last feature maps. A global average pool would
discard positions: on MNIST it left 97 % of the variance in the nine directions that separate the
classes. The distance then hardly depended on the shape of a digit.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import warnings
import zipfile
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from anytime_ar.config import Config
from anytime_ar.data.fingerprint import DataFingerprint
from anytime_ar.errors import BundleError, InputError, TrainingError
from anytime_ar.evaluation.protocols import EvaluationSplit
from anytime_ar.legacy import upgrade_weights
from anytime_ar.media.spectra import log_mel_spectrogram
from anytime_ar.runtime.files import write_bytes, write_json
from anytime_ar.runtime.mixed_precision import (
    UnscaledPrecision,
    bfloat16_autocast,
    faster_precision,
)
from anytime_ar.runtime.progress import ProgressCallback, no_progress
from anytime_ar.runtime.size_limits import SkipInit, stored_size
from anytime_ar.runtime.torch_modes import default_torch_modes

MIN_SIDE = 8
"""Minimum height and width of the classifier's input, in pixels."""


class FeatureExtractorConfig(Config):
    """The network and the training of a feature extractor."""

    width: int = Field(default=16, ge=4)
    """Channels of the first stage; the last stage has four times as many."""
    num_features: int = Field(default=128, ge=2)
    """Number of features, F: the size of the penultimate layer."""
    steps: int = Field(default=2500, ge=10)
    """Number of optimizer steps; fewer than 10 leave no room for the warm-up of the schedule."""
    batch_size: int = Field(default=128, ge=2)
    """Number of samples in a step."""
    learning_rate: float = Field(default=0.003, gt=0, allow_inf_nan=False)
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """Decoupled weight decay of AdamW."""
    label_smoothing: float = Field(default=0.02, ge=0, lt=1)
    """Probability that label smoothing spreads over the other labels."""
    shift: float = Field(default=0.07, ge=0, lt=0.5)
    """Maximum random shift of training samples along each axis, as a fraction of it (2 px of
    28)."""
    noise: float = Field(default=0.0, ge=0, le=1)
    """Maximum level of white noise in training samples, as a fraction of their RMS. The level is
    drawn log-uniformly, down to a hundredth of it. Audio needs some noise: without it, the
    predicted label depends on the level of silence."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Number format of training, as for models; `auto` times both and takes the faster one."""
    seed: int = 0
    """Random seed of the weights, of the order of samples, and of augmentation."""


class _ImageFrontEnd(nn.Module):
    """The classifier's input for images: the images themselves."""

    def __init__(self, sample_shape: tuple[int, ...]) -> None:
        """Take images of any shape (C, H, W)."""
        super().__init__()
        self.shape = sample_shape

    def forward(self, x: Tensor) -> Tensor:
        """Return the images [B, C, H, W] unchanged."""
        return x


class _LogMelFrontEnd(nn.Module):
    """The classifier's input for audio: log-mel spectrograms, as images of as many channels."""

    def __init__(self, sample_shape: tuple[int, ...], sample_rate: int) -> None:
        """Compute the shape of the spectrogram of a clip."""
        super().__init__()
        self.sample_rate = sample_rate
        self.shape = tuple(self(torch.zeros(1, *sample_shape)).shape[1:])

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Convert clips [B, C, T] to spectrograms [B, C, 40, frames], -1 at -60 dB."""
        with torch.autocast(x.device.type, enabled=False):
            levels = log_mel_spectrogram(x, self.sample_rate)  # [B * C, 40, frames], dB
        return levels.unflatten(0, x.shape[:2]) / 30 + 1


class _SeriesFrontEnd(nn.Module):
    """The classifier's input for series: images of one row."""

    def __init__(self, sample_shape: tuple[int, ...]) -> None:
        """Take series of any shape (C, T)."""
        super().__init__()
        self.shape = (sample_shape[0], 1, sample_shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """Return the series [B, C, T] as [B, C, 1, T]."""
        return x[:, :, None]


def _front_end(
    sample_shape: tuple[int, ...], sample_rate: int | None
) -> _ImageFrontEnd | _LogMelFrontEnd | _SeriesFrontEnd | None:
    """Return the module that converts samples to images [B, C, H, W]; None if there is none."""
    match len(sample_shape), sample_rate:
        case 3, None:
            return _ImageFrontEnd(sample_shape)
        case 2, None:
            return _SeriesFrontEnd(sample_shape)
        case 2, int(rate):
            return _LogMelFrontEnd(sample_shape, rate)
    return None


class FeatureExtractor(nn.Module):
    """A convolutional classifier with batch normalisation, whose penultimate layer gives features.

    Strided convolutions halve the maps down to a side of at least 4; two linear layers follow.

    Args:
        config: width of the network and number of features.
        sample_shape: (C, H, W) with sides of at least 8, or (C, T) of audio and series.
        label_count: number of classes, at least 2.
        sample_rate: sampling rate of audio in Hz; None for images and series.
        trained_on: fingerprint of the data set, with the names of its classes; None: not known.

    Raises:
        InputError: the samples are too small, or there are fewer than two labels.
    """

    def __init__(
        self,
        config: FeatureExtractorConfig,
        sample_shape: tuple[int, ...],
        label_count: int,
        sample_rate: int | None = None,
        trained_on: DataFingerprint | None = None,
    ) -> None:
        """Create the layers, with random weights."""
        super().__init__()
        self.front = _front_end(sample_shape, sample_rate)
        is_series = isinstance(self.front, _SeriesFrontEnd)  # images of one row
        sides = self.front.shape[2 if is_series else 1 :] if self.front else ()
        if self.front is None or min(sides) < MIN_SIDE:
            raise InputError(
                f"features need images (C, H, W) with sides of at least {MIN_SIDE}, sounds (C, T) "
                f"of 0.1 s or more, or series (C, T) of at least {MIN_SIDE} steps, got "
                f"{sample_shape}; resize the data set"
            )
        if label_count < 2:
            raise InputError(
                f"features need at least 2 labels to tell apart, got {label_count}; "
                "pass a features folder trained elsewhere"
            )
        self.config, self.sample_shape, self.label_count = config, sample_shape, label_count
        self.sample_rate, self.trained_on = sample_rate, trained_on
        channels, height, width = self.front.shape
        halvings = max(1, int(math.log2(min(sides) / 7)))
        widths = [config.width * min(2**i, 4) for i in range(halvings)] + [4 * config.width]
        layers = [_convolution(channels, widths[0], stride=1)]
        for narrow, wide in itertools.pairwise(widths):
            layers += [_convolution(narrow, wide, stride=2), _convolution(wide, wide, stride=1)]
        self.body = nn.Sequential(*layers)
        side = -(-height // 2**halvings), -(-width // 2**halvings)
        self.num_features: int = config.num_features
        self.neck = nn.Linear(widths[-1] * side[0] * side[1], self.num_features)
        self.head = nn.Linear(self.num_features, label_count)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Compute features float32 [B, F] of samples [B, *sample_shape] in [-1, 1]."""
        assert self.front is not None
        images = self.front(x).contiguous(memory_format=torch.channels_last)
        maps: Tensor = self.body(images)  # [B, F, h, w]
        features: Tensor = self.neck(maps.flatten(1))
        return features.float().relu()

    def to_images(self, x: Tensor) -> Tensor:
        """Return the classifier's input on the CPU, float32 [B, C, H, W].

        Images stay as they are, audio becomes spectrograms, series images of one row.

        Args:
            x: samples float32 [B, *sample_shape] on any device.
        """
        assert self.front is not None
        return self.front(x.to(self.head.weight.device)).cpu()

    def logits(self, x: Tensor) -> Tensor:
        """Compute logits [B, labels] of samples.

        Args:
            x: samples float32 [B, *sample_shape] in [-1, 1].
        """
        scores: Tensor = self.head(self(x))
        return scores


def _convolution(narrow: int, wide: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(narrow, wide, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(inplace=True),
    )


@default_torch_modes(grad=True)
def train_feature_extractor(
    train: EvaluationSplit,
    config: FeatureExtractorConfig,
    *,
    label_count: int,
    sample_rate: int | None = None,
    trained_on: DataFingerprint | None = None,
    device: torch.device | str = "cpu",
    progress: ProgressCallback = no_progress,
) -> FeatureExtractor:
    """Train a classifier on labelled samples, as a feature extractor.

    Args:
        train: training split of the data set.
        config: network and training.
        label_count: number of classes; labels are 0..label_count - 1.
        sample_rate: sampling rate of audio in Hz; None for images and series.
        trained_on: fingerprint of the data set, with the names of its classes; None: not known.
        device: device to train on.
        progress: called after every step, with the loss.

    Returns:
        The network in evaluation mode on `device`. Its configuration names the precision used.

    Raises:
        InputError: the data set has no labels, or its samples are too small.
        TrainingError: the loss is not finite.
    """
    device = torch.device(device)
    batches = train.shuffled(config.batch_size, config.seed)
    batch = next(batches)
    _require_labels(batch.labels)
    with torch.random.fork_rng(devices=[]):  # layers use the global generator
        torch.manual_seed(config.seed)
        shape = tuple(batch.data.shape[1:])
        network = FeatureExtractor(config, shape, label_count, sample_rate, trained_on)
    network.to(device).train()
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps + 1, pct_start=0.2
    )
    precision = config.precision
    if precision == "auto":
        precision = _faster_precision(network, batch.data.to(device))
    network.config = config.model_copy(update={"precision": precision})
    for step in range(1, config.steps + 1):
        labels = _require_labels(batch.labels).to(device)
        samples = add_noise(
            random_shift(batch.data, config.shift, generator), config.noise, generator
        )
        samples = samples.to(device)
        with bfloat16_autocast(device.type) if precision == "bf16-mixed" else nullcontext():
            logits = network.logits(samples)
        loss = nn.functional.cross_entropy(
            logits.float(), labels, label_smoothing=config.label_smoothing
        )
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the feature extractor's loss is {loss.item()} at step {step}; "
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


def _faster_precision(extractor: FeatureExtractor, samples: Tensor) -> UnscaledPrecision:
    """Time training steps in float32 and in bfloat16 on a copy, and return the faster format."""
    extractor = deepcopy(extractor)

    def step(precision: UnscaledPrecision) -> None:
        with bfloat16_autocast(samples.device.type) if precision == "bf16-mixed" else nullcontext():
            scores = extractor.logits(samples)
        scores.float().square().mean().backward()

    return faster_precision(step, samples.device)[0]


def random_shift(samples: Tensor, max_fraction: float, generator: torch.Generator) -> Tensor:
    """Shift each sample by a random distance along each axis, repeating the edges.

    Args:
        samples: [B, C, H, W] or [B, C, T].
        max_fraction: maximum distance as a fraction of the axis, in [0, 0.5).
        generator: source of the random distances.
    """
    images = samples if samples.ndim == 4 else samples[:, :, None]
    count, _, height, width = images.shape
    down, right = round(max_fraction * height), round(max_fraction * width)
    padded = nn.functional.pad(images, (right, right, down, down), mode="replicate")
    tops = torch.randint(0, 2 * down + 1, (count, 1, 1), generator=generator)
    lefts = torch.randint(0, 2 * right + 1, (count, 1, 1), generator=generator)
    rows = tops + torch.arange(height)[:, None]  # [B, H, 1]
    columns = lefts + torch.arange(width)  # [B, 1, W]
    pixels = padded[torch.arange(count)[:, None, None], :, rows, columns]  # [B, H, W, C]
    return pixels.permute(0, 3, 1, 2).reshape(samples.shape)


def add_noise(samples: Tensor, max_level: float, generator: torch.Generator) -> Tensor:
    """Add white noise of a random level to each sample.

    Args:
        samples: [B, ...].
        max_level: maximum RMS of the noise as a fraction of the RMS of the sample; the level is
            drawn log-uniformly between 0.01 and 1 times this.
        generator: source of the random numbers.
    """
    if not max_level:
        return samples
    each = (len(samples), *[1] * (samples.ndim - 1))
    share = max_level * 100 ** -torch.rand(each, generator=generator)
    rms = samples.square().mean(tuple(range(1, samples.ndim)), keepdim=True).sqrt()
    return samples + share * rms * torch.randn(samples.shape, generator=generator)


def _require_labels(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise InputError(
            "Fréchet distances need features of a classifier, and this data set has no labels to "
            "train one; pass the folder of one trained elsewhere or, for images, the Inception "
            "network of docs/how-to/fid.md: "
            "anytime evaluate MODEL --feature-extractor inception-2015-12-05.pt"
        )
    return labels


@torch.no_grad()
def classifier_accuracy(
    extractor: FeatureExtractor, split: EvaluationSplit, *, batch_size: int = 512
) -> float:
    """Return the share of a split whose labels the classifier predicts, in [0, 1].

    Args:
        extractor: the classifier.
        split: split with labels.
        batch_size: number of samples in a batch.

    Raises:
        InputError: the data set has no labels.
    """
    device = extractor.head.weight.device
    right = seen = 0
    for batch in split.batches(batch_size):
        guesses = extractor.logits(batch.data.to(device)).argmax(dim=1).cpu()
        right += int((guesses == _require_labels(batch.labels)).sum())
        seen += len(guesses)
    return right / seen


class _FeatureExtractorCard(Config):
    """The content of features.json: what rebuilds the network, and its accuracy."""

    format_version: Literal[1] = 1
    """Version of the file format, always 1."""
    config: FeatureExtractorConfig
    """Network and training of the extractor."""
    sample_shape: tuple[int, ...] = Field(min_length=2, max_length=3)
    """Shape of one sample: (C, H, W) of images, (C, T) of audio and series."""
    sample_rate: int | None = None
    """Sampling rate of audio in Hz; None for images."""
    label_count: int
    """Number of classes of the classifier."""
    test_accuracy: float = Field(ge=0, le=1)
    """Accuracy on the test split, in [0, 1]."""
    sha256: str
    """SHA-256 of features.safetensors, in hexadecimal."""
    trained_on: DataFingerprint | None = None
    """Fingerprint of the data set, with the names of its classes; None in files of version 0.1."""


class TrainedFeatureExtractor(NamedTuple):
    """A feature extractor and its accuracy as a classifier."""

    extractor: FeatureExtractor
    """The network with its trained weights."""
    test_accuracy: float
    """Accuracy on the test split, in [0, 1]."""


def save_feature_extractor(features: TrainedFeatureExtractor, folder: Path) -> None:
    """Write features.safetensors and features.json, each atomically.

    Args:
        features: extractor to write.
        folder: folder of the files, created if missing.

    Raises:
        InputError: a file cannot be written.
    """
    from safetensors.torch import save

    network = features.extractor
    weights = save({key: value.cpu().contiguous() for key, value in network.state_dict().items()})
    card = _FeatureExtractorCard(
        config=network.config,
        sample_shape=network.sample_shape,
        sample_rate=network.sample_rate,
        label_count=network.label_count,
        test_accuracy=features.test_accuracy,
        sha256=hashlib.sha256(weights).hexdigest(),
        trained_on=network.trained_on and network.trained_on.model_copy(update={"path": None}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "features.safetensors", weights)
    write_json(folder / "features.json", card.model_dump(mode="json"))


@default_torch_modes()
def load_feature_extractor(
    folder: Path, *, device: torch.device | str = "cpu"
) -> TrainedFeatureExtractor:
    """Read what `save_feature_extractor` wrote, in evaluation mode.

    Args:
        folder: folder of the files.
        device: device of the network.

    Raises:
        BundleError: a file is missing or altered, or the folder holds something else.
    """
    from safetensors.torch import load

    for name in ("features.json", "features.safetensors"):
        if not (folder / name).is_file():
            raise BundleError(
                f"{folder} has no {name}, so it is not a features folder; make one with "
                "`anytime train-classifier`"
            )
    try:
        values = json.loads((folder / "features.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder / 'features.json'} is not JSON: {error}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != 1:
        raise BundleError(
            f"{folder / 'features.json'} has format_version {version!r}, expected 1; "
            "train the features again with `anytime train-classifier`"
        )
    try:
        card = _FeatureExtractorCard.parse(values, origin=str(folder / "features.json"))
    except InputError as error:
        raise BundleError(str(error)) from error
    weights = (folder / "features.safetensors").read_bytes()
    if hashlib.sha256(weights).hexdigest() != card.sha256:
        raise BundleError(
            f"{folder / 'features.safetensors'} does not match the checksum in features.json; it "
            "was altered or half copied: copy the folder again, or run `anytime train-classifier`"
        )
    try:
        stored = stored_size([folder / "features.safetensors"])
        with SkipInit(folder / "features.json", stored):
            network = FeatureExtractor(
                card.config,
                card.sample_shape,
                card.label_count,
                card.sample_rate,
                card.trained_on,
            )
        network.load_state_dict(upgrade_weights(load(weights)))
    except RuntimeError as error:
        raise BundleError(
            f"{folder / 'features.safetensors'} does not fit the network in features.json"
        ) from error
    return TrainedFeatureExtractor(network.to(device).eval(), card.test_accuracy)


class ModuleFeatureExtractor:
    """A feature extractor that is any module of the caller.

    Args:
        network: module from samples float32 [B, *sample_shape] in [-1, 1] to features [B, F].
        sample_shape: (C, H, W) of images, (C, T) of audio.
        device: device of the network.

    Raises:
        InputError: it computes no features of such samples.
    """

    def __init__(
        self,
        network: nn.Module,
        sample_shape: tuple[int, ...],
        device: torch.device | str = "cpu",
    ) -> None:
        """Try the network on two samples of zeros."""
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        name = type(network).__name__
        try:
            found = self(torch.zeros(2, *sample_shape))
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{name} computes no features of float32 {[2, *sample_shape]}: {error}"
            ) from error
        if found.ndim != 2 or len(found) != 2:
            raise InputError(f"{name} gives {list(found.shape)} for 2 samples; return [2, F]")

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        """Compute features float32 [B, F] on the CPU of float32 [B, *sample_shape]."""
        features: Tensor = self.network(samples.to(self.device))
        return features.float().cpu()


class TorchScriptFeatureExtractor:
    """A feature extractor for images from a TorchScript file, such as Inception.

    Args:
        path: TorchScript file; its network takes uint8 images [B, 3, H, W] and
            `return_features=True`.
        device: device of the network.

    Raises:
        BundleError: the file cannot be read, or its network returns no features of images.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        """Load the network and try it on two images."""
        self.path, self.device = path, torch.device(device)
        if not path.is_file():
            raise BundleError(f"{path}: no such file; pass a TorchScript file")
        if not zipfile.is_zipfile(path):
            raise BundleError(
                f"{path} is no TorchScript file, which is a zip archive; pass one, or a folder "
                "that `anytime train-classifier` wrote"
            )
        try:
            with warnings.catch_warnings():
                # Deprecated by PyTorch, but the reference Inception network is a TorchScript file.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._network = torch.jit.load(path, map_location=self.device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise BundleError(
                f"{path} is a zip archive, but no TorchScript file that this PyTorch reads; pass "
                "one, or a folder that `anytime train-classifier` wrote"
            ) from error
        try:
            found = self(torch.zeros(2, 3, 32, 32))
        except RuntimeError as error:
            raise BundleError(
                f"{path} does not take uint8 images [B, 3, H, W] and return_features=True, so it "
                "gives no features; pass a network such as inception-2015-12-05.pt"
            ) from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise BundleError(f"{path} gives {shape} for 2 images; features are [2, F]")

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        """Compute features float32 [B, F] on the CPU.

        Args:
            samples: images float32 [B, C, H, W] in [-1, 1], with C of 1 or 3.

        Raises:
            InputError: the samples are not images.
        """
        if samples.ndim != 4 or samples.shape[1] not in (1, 3):
            raise InputError(
                f"{self.path} takes images (1 or 3, H, W), and these samples are "
                f"{tuple(samples.shape[1:])}; train features on them with `anytime "
                "train-classifier`"
            )
        pixels = ((samples.to(self.device).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        features = self._network(pixels.expand(-1, 3, -1, -1), return_features=True)
        return features.float().cpu() if isinstance(features, Tensor) else features


AnyFeatureExtractor = FeatureExtractor | TorchScriptFeatureExtractor | ModuleFeatureExtractor
"""Networks whose features define the distances between sets."""
