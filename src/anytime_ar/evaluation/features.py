"""Training, measuring and keeping the classifier whose features judge samples."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from anytime_ar.ambient import default_torch_modes
from anytime_ar.config import Config
from anytime_ar.errors import BundleError, InputError, TrainingError
from anytime_ar.evaluation.classifier import FeatureExtractor, FeatureExtractorConfig
from anytime_ar.evaluation.protocols import EvaluationSplit, ProgressCallback, no_progress
from anytime_ar.files import write_bytes, write_json
from anytime_ar.training.precision import UnscaledPrecision, bfloat16_autocast, faster_precision
from anytime_ar.uninitialized import SkipInit, stored_size


@default_torch_modes(grad=True)
def train_feature_extractor(
    train: EvaluationSplit,
    config: FeatureExtractorConfig,
    *,
    label_count: int,
    sample_rate: int | None = None,
    device: torch.device | str = "cpu",
    progress: ProgressCallback = no_progress,
) -> FeatureExtractor:
    """Train a classifier on labelled samples.

    Args:
        train: the data set's training split.
        label_count: number of classes; labels are 0 .. label_count - 1.
        sample_rate: of sounds, in Hz.
        progress: called after every step with the loss.

    Returns:
        The network in evaluation mode, on `device`; its configuration names the precision used.

    Raises:
        InputError: the data set has no labels, or its samples are too small.
        TrainingError: the loss is not finite.
    """
    device = torch.device(device)
    batches = train.shuffled(config.batch_size, config.seed)
    batch = next(batches)
    with torch.random.fork_rng(devices=[]):  # layers initialise from the global generator
        torch.manual_seed(config.seed)
        shape = tuple(batch.data.shape[1:])
        network = FeatureExtractor(config, shape, label_count, sample_rate)
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
    """Time training in float32 and in bfloat16, on a copy of the network."""
    extractor = deepcopy(extractor)

    def step(precision: UnscaledPrecision) -> None:
        with bfloat16_autocast(samples.device.type) if precision == "bf16-mixed" else nullcontext():
            scores = extractor.logits(samples)
        scores.float().square().mean().backward()

    return faster_precision(step, samples.device)[0]


def random_shift(samples: Tensor, max_fraction: float, generator: torch.Generator) -> Tensor:
    """Each sample [B, C, H, W] or [B, C, T] moved by up to `max_fraction` of each axis, edges
    repeated."""
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
    """Each sample [B, ...] with white noise of 0.01 to 1 times `max_level` times its own level."""
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
            "train one; pass a features folder trained elsewhere"
        )
    return labels


@torch.no_grad()
def classifier_accuracy(
    extractor: FeatureExtractor, split: EvaluationSplit, *, batch_size: int = 512
) -> float:
    """The fraction of `split` that the classifier gets right, in [0, 1].

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
    """features.json: all that is needed to rebuild the network, and what it was measured at."""

    format_version: Literal[1] = 1
    config: FeatureExtractorConfig
    sample_shape: tuple[int, ...] = Field(min_length=2, max_length=3)
    sample_rate: int | None = None
    label_count: int
    test_accuracy: float = Field(ge=0, le=1)
    sha256: str


class TrainedFeatureExtractor(NamedTuple):
    """A feature network and how good a classifier it is."""

    extractor: FeatureExtractor
    test_accuracy: float


def save_feature_extractor(features: TrainedFeatureExtractor, folder: Path) -> None:
    """Write features.safetensors and features.json; each appears whole or not at all."""
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
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "features.safetensors", weights)
    write_json(folder / "features.json", card.model_dump(mode="json"))


@default_torch_modes()
def load_feature_extractor(
    folder: Path, *, device: torch.device | str = "cpu"
) -> TrainedFeatureExtractor:
    """Read what `save_feature_extractor` wrote; the network is in evaluation mode.

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
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder / 'features.json'} is not JSON: {error}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != 1:
        raise BundleError(
            f"{folder / 'features.json'} has format_version {version!r}, expected 1; "
            "train the features again with `anytime features`"
        )
    try:
        card = _FeatureExtractorCard.parse(values, origin=str(folder / "features.json"))
    except InputError as error:
        raise BundleError(str(error)) from error
    weights = (folder / "features.safetensors").read_bytes()
    if hashlib.sha256(weights).hexdigest() != card.sha256:
        raise BundleError(
            f"{folder / 'features.safetensors'} does not match the checksum in features.json; it "
            "was altered or half copied: copy the folder again, or run `anytime features`"
        )
    try:
        stored = stored_size([folder / "features.safetensors"])
        with SkipInit(folder / "features.json", stored):
            network = FeatureExtractor(
                card.config, card.sample_shape, card.label_count, card.sample_rate
            )
        network.load_state_dict(load(weights))
    except RuntimeError as error:
        raise BundleError(
            f"{folder / 'features.safetensors'} does not fit the network in features.json"
        ) from error
    return TrainedFeatureExtractor(network.to(device).eval(), card.test_accuracy)
