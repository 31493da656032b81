"""What autoencoder and prior feed to the loop: truncation schemes, codes that are computed once."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from training_fakes import SAMPLES, tiny

from anytime_ar.autoencoder import (
    AutoencoderConfig,
    Decoded,
    OrderedAutoencoder,
    TruncationConfig,
)
from anytime_ar.bundle.format import build_bundle
from anytime_ar.data import AugmentationConfig, DataSplits
from anytime_ar.data.splits import MemorySplit
from anytime_ar.errors import InputError
from anytime_ar.prior import SamplingParams
from anytime_ar.runtime.distributed import DistributedContext
from anytime_ar.runtime.seeding import seeded
from anytime_ar.training import AutoencoderTrainingConfig, TrainConfig, train
from anytime_ar.training.config import PriorTrainingConfig
from anytime_ar.training.run import build_card
from anytime_ar.training.stages.autoencoder import AutoencoderObjective, AutoencoderStage
from anytime_ar.training.stages.prior import PriorObjective, PriorStage

LENGTH = 4


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def autoencoder_of(data: DataSplits, config: TrainConfig) -> OrderedAutoencoder:
    with seeded(0, "test"):
        return build_bundle(build_card(config, data)).autoencoder


@pytest.fixture
def kept_seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The kept lengths of every call of the decoder."""
    calls: list[list[int]] = []
    decode = OrderedAutoencoder.decode_vectors

    def spy(self: OrderedAutoencoder, vectors: Tensor, kept: Tensor) -> Decoded:
        calls.append(kept.tolist())
        return decode(self, vectors, kept)

    monkeypatch.setattr(OrderedAutoencoder, "decode_vectors", spy)
    return calls


Losses = Callable[..., dict[str, Tensor]]


@pytest.fixture
def losses_of(data: DataSplits) -> Losses:
    """Losses of one batch of 64 under options, at some progress."""

    def compute(progress: float = 0.0, **options: Any) -> dict[str, Tensor]:
        config = AutoencoderTrainingConfig(**options)
        objective = AutoencoderObjective(autoencoder_of(data, tiny()), config)
        batch = next(data.train.batches(64)).data
        losses: dict[str, Tensor] = objective(batch, progress, torch.Generator().manual_seed(1))
        return losses

    return compute


def test_one_stage_keeps_a_random_prefix_of_each_sample(
    losses_of: Losses, kept_seen: list[list[int]]
) -> None:
    losses = losses_of(scheme="one_stage")
    (kept,) = kept_seen
    assert len(kept) == 64
    assert set(kept) == {1, 2, 3, 4}
    assert losses.keys() == {"loss", "error", "quantizer"}
    torch.testing.assert_close(losses["loss"], losses["error"] + losses["quantizer"])


def test_two_stages_truncate_from_half_of_the_steps_on(
    losses_of: Losses, kept_seen: list[list[int]]
) -> None:
    for progress in (0.0, 0.49, 0.5, 0.99):
        losses_of(progress, scheme="two_stage")
    assert [len(set(kept)) > 1 for kept in kept_seen] == [False, False, True, True]
    assert kept_seen[0] == kept_seen[1] == [LENGTH] * 64


def test_full_and_prefix_decodes_both(losses_of: Losses, kept_seen: list[list[int]]) -> None:
    losses = losses_of(scheme="full_and_prefix")
    (kept,) = kept_seen
    assert kept[:64] == [LENGTH] * 64
    assert set(kept[64:]) == {1, 2, 3, 4}
    assert losses.keys() == {"loss", "full", "prefix", "quantizer"}
    total = losses["full"] + losses["prefix"] + losses["quantizer"]
    torch.testing.assert_close(losses["loss"], total)


@pytest.mark.parametrize("scheme", ["one_stage", "two_stage", "full_and_prefix"])
def test_one_k_for_a_batch(losses_of: Losses, kept_seen: list[list[int]], scheme: str) -> None:
    losses_of(0.9, scheme=scheme, truncation_per="batch")
    (kept,) = kept_seen
    assert len(set(kept[-64:])) == 1


def test_the_distribution_is_the_configured_one(
    losses_of: Losses, kept_seen: list[list[int]]
) -> None:
    losses_of(scheme="one_stage", truncation=TruncationConfig(distribution="full"))
    losses_of(scheme="one_stage", truncation=TruncationConfig(distribution="powers_of_two"))
    assert set(kept_seen[0]) == {LENGTH}
    assert set(kept_seen[1]) == {1, 2, LENGTH}


def test_the_error_is_that_of_the_decoded_prefix(data: DataSplits) -> None:
    """Computed apart, from public parts of the autoencoder."""
    model = autoencoder_of(data, tiny()).eval()
    options = AutoencoderTrainingConfig(
        scheme="full_and_prefix", truncation=TruncationConfig(distribution="powers_of_two")
    )
    x = next(data.train.batches(16)).data
    losses = AutoencoderObjective(model, options)(x, 0.0, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    truncation = options.truncation.build(LENGTH)
    truncation.sample(16, generator)  # the full lengths are drawn first
    kept = truncation.sample(16, generator)
    codes = model.encode(x)

    def error(lengths: list[int]) -> Tensor:
        decoded = model.decode_vectors(model.quantizer.lookup(codes), torch.tensor(lengths))
        return (decoded.samples - x).square().mean()

    torch.testing.assert_close(losses["full"], error([LENGTH] * 16))
    torch.testing.assert_close(losses["prefix"], error(kept.tolist()))


def test_the_first_codebook_comes_from_the_encoder(data: DataSplits, fabric: Fabric) -> None:
    model = autoencoder_of(data, tiny())
    before = model.quantizer.state_dict()["codebooks"].clone()
    stage = AutoencoderStage(model, data, tiny(), DistributedContext())
    stage.initialize(fabric)
    codebooks = model.quantizer.state_dict()["codebooks"]  # [L, V, D]
    assert not torch.equal(codebooks, before)
    vectors = model.encode_vectors(next(data.train.batches(SAMPLES)).data).detach()
    for position in range(LENGTH):
        seen = vectors[:, position]
        assert (codebooks[position] >= seen.amin(0) - 0.1).all()
        assert (codebooks[position] <= seen.amax(0) + 0.1).all()
    assert stage.batches.state_dict()["step"] == 0, "training still begins with the first batch"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every batch that is encoded."""
    batches: list[Tensor] = []
    encode_vectors = OrderedAutoencoder.encode_vectors

    def spy(self: OrderedAutoencoder, x: Tensor) -> Tensor:
        if any(frame.function == "_encode_batches" for frame in inspect.stack()):
            batches.append(x)
        return encode_vectors(self, x)

    monkeypatch.setattr(OrderedAutoencoder, "encode_vectors", spy)
    return batches


def prior_stage(data: DataSplits, fabric: Fabric, **options: Any) -> PriorStage:
    config = tiny(prior_training=tiny().prior_training.model_copy(update=options))
    bundle = build_bundle(build_card(config, data))
    assert bundle.prior is not None
    return PriorStage(bundle.prior, bundle.autoencoder, data, config, fabric, DistributedContext())


def test_codes_are_computed_once(tmp_path: Path, data: DataSplits, encoded: list[Tensor]) -> None:
    config = tiny(
        prior_training=tiny().prior_training.model_copy(
            update={"augmented_copies": 1, "augmentation": AugmentationConfig(), "steps": 20}
        )
    )
    train(config, tmp_path / "run", device="cpu", show_progress=False, data=data)
    assert [len(batch) for batch in encoded] == [SAMPLES, 40]  # training and validation


def test_views_encode_every_sample_so_often(
    data: DataSplits, fabric: Fabric, encoded: list[Tensor]
) -> None:
    stage = prior_stage(data, fabric, augmented_copies=3)
    assert stage.codes.shape == (3 * SAMPLES, LENGTH)
    assert stage.labels is not None
    labels = next(data.train.batches(SAMPLES)).labels
    assert labels is not None
    assert torch.equal(stage.labels.bincount(), 3 * labels.bincount())
    assert not torch.equal(encoded[0][:SAMPLES], encoded[0][SAMPLES:][:SAMPLES])


def test_augmentation_changes_codes_and_validation_has_none(
    data: DataSplits, fabric: Fabric, encoded: list[Tensor]
) -> None:
    prior_stage(data, fabric, augmented_copies=1)
    plain = next(data.train.batches(SAMPLES)).data
    moved = encoded[0][:SAMPLES].flatten(1)
    assert torch.cdist(moved, plain.flatten(1)).amin(1).median() > 0.1
    assert torch.equal(encoded[-1], next(data.validation.batches(40)).data)


def test_every_sequence_comes_once_an_epoch(data: DataSplits, fabric: Fabric) -> None:
    """150 sequences in batches of 60: an epoch is two batches and a half."""
    stage = prior_stage(data, fabric, augmented_copies=1, batch_size=60)
    rows = torch.arange(SAMPLES)
    stage.codes = rows[:, None].expand(-1, LENGTH)  # so that a sequence tells its number
    stage.labels = rows
    batches = [stage.batch(step) for step in range(5)]
    order = torch.cat([codes[:, 0] for codes, *_ in batches])
    for epoch in (order[:SAMPLES], order[SAMPLES:]):
        assert torch.equal(epoch.sort().values, rows)
    assert not torch.equal(order[:SAMPLES], order[SAMPLES:])
    for codes, labels, _ in batches:
        assert labels is not None
        assert torch.equal(codes[:, 0], labels), "a label belongs to its sequence"
    assert torch.equal(stage.batch(1)[0], batches[1][0]), "it follows from the step alone"


def test_entries_take_their_features_from_the_autoencoder(data: DataSplits, fabric: Fabric) -> None:
    config = tiny()
    prior = config.prior
    assert prior is not None
    prior = prior.model_copy(update={"codebook_features": 8, "embedding_width": 4})
    config = config.model_copy(update={"prior": prior})
    bundle = build_bundle(build_card(config, data))
    assert bundle.prior is not None
    PriorStage(bundle.prior, bundle.autoencoder, data, config, fabric, DistributedContext())
    codebooks = bundle.autoencoder.quantizer.state_dict()["codebooks"]  # [L, V, D]
    width = codebooks.shape[2]
    features = bundle.prior.codebook_features.unflatten(0, codebooks.shape[:2])
    directions = features[..., -2 * width : -width]
    alike = torch.nn.functional.cosine_similarity(directions, codebooks, dim=2)
    torch.testing.assert_close(alike, torch.ones_like(alike))


def test_steps_on_prefixes_see_more_sequences(data: DataSplits, fabric: Fabric) -> None:
    """Of 4 codes, by turns, one of 80 sequences and all of 20; still each once an epoch."""
    stage = prior_stage(
        data, fabric, augmented_copies=1, batch_size=20, prefix_fractions=(0.25, 1.0)
    )
    rows = torch.arange(SAMPLES)
    stage.codes = rows[:, None].expand(-1, LENGTH)
    stage.labels = rows
    batches = [stage.batch(step) for step in range(4)]
    assert [tuple(codes.shape) for codes, *_ in batches] == [(80, 1), (20, 4), (80, 1), (20, 4)]
    order = torch.cat([codes[:, 0] for codes, *_ in batches])
    assert torch.equal(order[:SAMPLES].sort().values, rows)
    assert torch.equal(stage.batch(2)[0], batches[2][0])


@pytest.mark.parametrize("shares", [(), (0.0, 1.0), (1.5,)])
def test_prefixes_are_shares_of_the_code_length(shares: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"prefix_fractions must be in \(0, 1\]"):
        PriorTrainingConfig.parse({"prefix_fractions": shares}, origin="test")


def test_a_stream_of_unknown_size_cannot_be_encoded_in_views(
    data: DataSplits, fabric: Fabric
) -> None:
    class Stream(MemorySplit):
        @property
        def size(self) -> int:
            return None  # type: ignore[return-value]

    chunk = next(data.train.chunks(SAMPLES))
    stream = replace(data, train=Stream(chunk.samples, chunk.labels, "faces train split"))
    with pytest.raises(
        InputError, match=r"^faces train split does not say how many samples.* encoded 2 times; set"
    ):
        prior_stage(stream, fabric)
    plain = prior_stage(stream, fabric, augmented_copies=1, augmentation=AugmentationConfig())
    assert len(plain.codes) == SAMPLES


def test_labels_and_codes_are_hidden_in_training_only(
    data: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = build_bundle(build_card(tiny(), data))
    assert bundle.prior is not None
    prior = bundle.prior
    seen: list[tuple[Tensor, Tensor]] = []

    def forward(codes: Tensor, labels: Tensor) -> Tensor:
        seen.append((codes, labels))
        return torch.zeros(500, LENGTH, 8)

    monkeypatch.setattr(prior, "forward", forward)
    objective = PriorObjective(prior, code_noise=0.2)
    codes, labels = torch.zeros(500, LENGTH, dtype=torch.int64), torch.arange(500) % 10
    objective.train()(codes, labels, generator=torch.Generator().manual_seed(0))
    objective.eval()(codes, labels)
    (noisy, hidden), (plain, given) = seen
    assert 0.25 < (hidden == prior.no_label).double().mean() < 0.35
    assert torch.equal(hidden[hidden != prior.no_label], labels[hidden != prior.no_label])
    assert 0.14 < (noisy != 0).double().mean() < 0.21  # one in eight of the random entries is 0
    assert plain is codes
    assert given is labels


def test_an_unconditional_prior_sees_no_labels(tmp_path: Path, data: DataSplits) -> None:
    model = train(
        tiny(conditional=False), tmp_path / "run", device="cpu", show_progress=False, data=data
    )
    assert model.labels is None
    assert model.prior is not None
    assert model.prior.label_count == 0


def test_a_card_tells_what_the_model_is(uninterrupted: Path, data: DataSplits) -> None:
    card = json.loads((uninterrupted / "bundle" / "config.json").read_text())
    assert card["format_version"] == 2
    assert card["data"]["name"] == "digits"
    assert card["data"]["sample_shape"] == [1, 8, 8]
    assert card["data"]["value_range"] == [-1.0, 1.0]
    labels = next(data.train.batches(SAMPLES)).labels
    assert labels is not None
    expected = (labels.bincount(minlength=10) / SAMPLES).tolist()
    assert card["data"]["label_frequencies"] == pytest.approx(expected)
    by_stage = dict.fromkeys(("autoencoder", "decoder_gan", "prior"), "bf16-mixed")
    assert card["training"] == tiny().model_dump(mode="json") | {"precision_by_stage": by_stage}


def test_images_have_no_losses_of_sounds(data: DataSplits) -> None:
    config = tiny(autoencoder_training=AutoencoderTrainingConfig(stft_loss_weight=0.5))
    with pytest.raises(InputError, match=r"stft_loss_weight is 0.5, and .* are no sounds; drop it"):
        build_card(config, data)


def test_a_model_without_labels_follows_none(data: DataSplits) -> None:
    config = tiny(sampling_params=SamplingParams(guidance=2.0))
    assert build_card(config, data).sampling_params.guidance == 2
    with pytest.raises(InputError, match=r"guidance 2\.0 was given, but this model has no labels"):
        build_card(config.model_copy(update={"conditional": False}), data)


@pytest.mark.parametrize("scheme", ["one_stage", "full_and_prefix"])
def test_loudness_that_noise_fills_up_to_is_learned_beside_samples(scheme: str) -> None:
    values = {
        "layout": "lapped_segment",
        "segments": 2,
        "noise_bands": 3,
        "code_length": 4,
        "code_width": 2,
        "network": {"patch": 2, "widths": [4], "blocks": 0, "hidden": 0},
    }
    config = AutoencoderConfig.parse(values, origin="test")
    with seeded(0, "test") as generator:
        model = OrderedAutoencoder(config, (1, 64)).eval()
        x = torch.rand(5, 1, 64, generator=generator) - 0.5
        truncation = TruncationConfig(distribution="full")
        options = AutoencoderTrainingConfig.parse(
            {"scheme": scheme, "truncation": truncation.model_dump()}, origin="test"
        )
        losses = AutoencoderObjective(model, options)(x, 0.0, generator)
    decoded = model.decode_vectors(model.quantizer.lookup(model.encode(x)), torch.full((5,), 4))
    wanted = model.loudness(x)
    assert decoded.loudness is not None
    assert wanted is not None
    assert wanted.shape == decoded.loudness.shape == (5, 2, 3)
    of_samples, of_loudness = decoded.samples - x, decoded.loudness - wanted
    expected = (of_samples.square().sum() + of_loudness.square().sum()) / x.numel()
    for name in {"one_stage": ("error",), "full_and_prefix": ("full", "prefix")}[scheme]:
        torch.testing.assert_close(losses[name], expected)
