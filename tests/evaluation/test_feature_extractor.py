from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from evaluation_fakes import FakeSplit

from anytime_ar.errors import BundleError, InputError, TrainingError
from anytime_ar.evaluation import (
    FeatureExtractor,
    FeatureExtractorConfig,
    TrainedFeatureExtractor,
    classifier_accuracy,
    load_feature_extractor,
    save_feature_extractor,
    train_feature_extractor,
)
from anytime_ar.evaluation.feature_extractor import add_noise, random_shift

TINY = FeatureExtractorConfig(width=4, steps=10, batch_size=32, precision="32-true")


@pytest.fixture
def folder(features, tmp_path) -> Path:
    save_feature_extractor(TrainedFeatureExtractor(features, 0.75), tmp_path / "features")
    return tmp_path / "features"


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 9, 17)])
def test_features_and_logits_of_any_image(shape):
    network = FeatureExtractor(
        FeatureExtractorConfig(width=4, num_features=16), shape, label_count=5
    ).eval()
    x = torch.zeros(2, *shape)
    assert network(x).shape == (2, network.num_features) == (2, 16)
    assert network(x).dtype == torch.float32
    assert network.logits(x).shape == (2, 5)


def test_sounds_are_told_apart_by_their_spectra():
    from test_reconstruction_metrics import RATE

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    pitch = (200 + 600 * labels + 50 * torch.rand(200, generator=generator))[:, None]
    phase = 6.3 * torch.rand(200, 1, generator=generator)
    x = torch.sin(2 * math.pi * pitch * torch.arange(1600) / RATE + phase)[:, None]
    split = FakeSplit(0.5 * x, labels)
    network = train_feature_extractor(split, TINY, label_count=2, sample_rate=RATE)
    assert network(x[:3]).shape == (3, network.num_features)
    assert classifier_accuracy(network, split) == 1


def test_features_of_sounds_come_back_exactly(tmp_path):
    network = FeatureExtractor(TINY, (1, 1600), 2, sample_rate=8000).eval()
    save_feature_extractor(TrainedFeatureExtractor(network, 0.5), tmp_path)
    loaded = load_feature_extractor(tmp_path).extractor
    assert loaded.sample_rate == 8000
    x = torch.randn(2, 1, 1600, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


def test_shifts_of_sounds_are_in_time():
    x = torch.zeros(64, 1, 100)
    x[:, :, 50] = 1
    moved = random_shift(x, 0.02, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    assert set((moved[:, 0].argmax(1) - 50).tolist()) == {-2, -1, 0, 1, 2}


def test_the_classifier_learns_the_patterns(features, splits):
    assert not features.training
    assert classifier_accuracy(features, splits.test) >= 0.97


def test_digits_are_learned_in_seconds():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    config = FeatureExtractorConfig(steps=200)
    network = train_feature_extractor(FakeSplit(x[train], labels[train]), config, label_count=10)
    assert classifier_accuracy(network, FakeSplit(x[test], labels[test])) >= 0.96


def test_training_is_deterministic_and_leaves_the_global_generator_alone(splits):
    before = torch.get_rng_state()
    first, second = (train_feature_extractor(splits.train, TINY, label_count=4) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.head.weight, second.head.weight)
    other = train_feature_extractor(
        splits.train, TINY.model_copy(update={"seed": 1}), label_count=4
    )
    assert not torch.equal(first.head.weight, other.head.weight)


def test_progress_counts_the_steps(splits):
    seen = []
    train_feature_extractor(
        splits.train, TINY, label_count=4, progress=lambda *step: seen.append(step)
    )
    assert [step[:2] for step in seen] == [(step, 10) for step in range(1, 11)]
    assert seen[0][2].startswith("loss ")


def test_shifts_move_each_image_by_itself_within_bounds():
    x = torch.zeros(64, 1, 16, 16)
    x[:, :, 8, 8] = 1
    moved = random_shift(x, 0.125, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    places = moved.flatten(1).argmax(dim=1)
    rows, columns = places // 16 - 8, places % 16 - 8
    assert moved.sum() == 64
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}
    assert not torch.equal(rows, columns)


def test_noise_is_in_proportion_to_each_sample():
    x = torch.stack([torch.full((1, 1000), level) for level in [0.01, 1.0] * 500])
    generator = torch.Generator().manual_seed(0)
    assert add_noise(x, 0.0, generator) is x
    shares = (add_noise(x, 0.5, generator) - x).square().mean((1, 2)).sqrt() / x[:, 0, 0]
    assert 0.0045 < shares.min() < 0.006
    assert 0.45 < shares.max() < 0.55
    means = [part.log().mean().item() for part in (shares[::2], shares[1::2])]
    assert means[0] == pytest.approx(means[1], abs=0.2)


def test_noise_in_training_makes_a_classifier_that_stands_noise(splits):
    config = FeatureExtractorConfig(width=4, steps=60, batch_size=32)
    loud = splits.test.data + 0.4 * torch.randn(
        splits.test.data.shape, generator=torch.Generator().manual_seed(0)
    )
    figures = [
        classifier_accuracy(
            train_feature_extractor(
                splits.train, config.model_copy(update={"noise": noise}), label_count=4
            ),
            FakeSplit(loud, splits.test.labels),
        )
        for noise in (0.0, 1.0)
    ]
    assert figures[1] > figures[0]


def test_data_without_labels(splits, features):
    blind = FakeSplit(splits.train.data, None)
    for act in (
        lambda: train_feature_extractor(blind, TINY, label_count=4),
        lambda: classifier_accuracy(features, blind),
    ):
        with pytest.raises(InputError, match=r"no labels .* --feature-extractor inception"):
            act()


@pytest.mark.parametrize(
    ("shape", "rate"), [((4, 8, 20), None), ((2, 1600), 8000), ((3, 100), None)]
)
def test_every_channel_and_both_sides_matter(shape, rate):
    network = FeatureExtractor(TINY, shape, 2, sample_rate=rate).eval()
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = network(x)
    assert expected.shape == (1, network.num_features)
    for channel in range(shape[0]):
        other = x.clone()
        other[:, channel] *= -1 if rate is None else 0.1
        assert not torch.equal(network(other), expected)


def test_unsuitable_samples_and_labels():
    with pytest.raises(InputError, match=r"at least 8, .*got \(1, 7, 8\); resize"):
        FeatureExtractor(TINY, (1, 7, 8), 10)
    with pytest.raises(InputError, match=r"sounds \(C, T\) of 0.1 s or more, .*got \(1, 300\)"):
        FeatureExtractor(TINY, (1, 300), 10, sample_rate=8000)
    with pytest.raises(InputError, match=r"series \(C, T\) of at least 8 steps, got \(3, 7\)"):
        FeatureExtractor(TINY, (3, 7), 10)
    with pytest.raises(InputError, match="at least 2 labels to tell apart, got 1"):
        FeatureExtractor(TINY, (1, 8, 8), 1)


def test_a_loss_that_is_not_finite_stops_training(splits):
    broken = FakeSplit(splits.train.data * float("nan"), splits.train.labels)
    with pytest.raises(TrainingError, match="loss is nan at step 1; lower learning_rate"):
        train_feature_extractor(broken, TINY, label_count=4)


def test_saved_features_come_back_exactly(folder, features, splits):
    assert sorted(path.name for path in folder.iterdir()) == [
        "features.json",
        "features.safetensors",
    ]
    network, test_accuracy = load_feature_extractor(folder)
    x = splits.test.data[:16]
    assert test_accuracy == 0.75
    assert not network.training
    with torch.no_grad():
        assert torch.equal(network(x), features(x))


@pytest.mark.parametrize("name", ["features.json", "features.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"has no {name}, so it is not a features folder"):
        load_feature_extractor(folder)


def test_altered_weights_are_refused(folder):
    path = folder / "features.safetensors"
    weights = bytearray(path.read_bytes())
    weights[-1] ^= 1
    path.write_bytes(weights)
    with pytest.raises(BundleError, match="does not match the checksum"):
        load_feature_extractor(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version 2, expected 1"),
        ({"label_count": "many"}, "label_count: .*'many'"),
        ({"colour": 1}, "colour"),
        ({"label_count": 7}, "does not fit the network"),
    ],
)
def test_a_foreign_card_is_refused(folder, change, message):
    path = folder / "features.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BundleError, match=message):
        load_feature_extractor(folder)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "format_version None")])
def test_a_card_that_is_something_else(folder, text, message):
    (folder / "features.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        load_feature_extractor(folder)


@pytest.mark.parametrize("faster", ["32-true", "bf16-mixed"])
def test_the_faster_number_format_is_taken_and_kept(splits, tmp_path, monkeypatch, faster):
    def choose(step, _):
        step("bf16-mixed")
        return faster, {}

    monkeypatch.setattr("anytime_ar.evaluation.feature_extractor.faster_precision", choose)
    told = train_feature_extractor(
        splits.train, TINY.model_copy(update={"precision": faster}), label_count=4
    )
    auto = train_feature_extractor(
        splits.train, TINY.model_copy(update={"precision": "auto"}), label_count=4
    )
    for name, value in told.state_dict().items():
        assert torch.equal(auto.state_dict()[name], value), "comparing leaves no trace"
    save_feature_extractor(TrainedFeatureExtractor(auto, 0.5), tmp_path)
    assert load_feature_extractor(tmp_path).extractor.config.precision == faster
