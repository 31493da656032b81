from __future__ import annotations

import itertools
import math

import pytest
import scipy.stats
import torch
from evaluation_fakes import LENGTH, FakeCodec, FakeModel, FakeSplit, FakeSplits, patterns

from anytime_ar.errors import InputError
from anytime_ar.evaluation import ReferenceDistribution, estimate_duration_s, evaluate
from anytime_ar.evaluation.evaluator import default_budgets
from modes import MODES


@pytest.fixture
def curve(model, unordered, splits, features):
    return evaluate(model, splits, features, samples=300, unordered=unordered, batch_size=64)


@torch.no_grad()
def compare(features, real, samples, *, paired=False):
    return ReferenceDistribution([features(real)]).compare([features(samples)], paired=paired)


def test_the_duration_is_estimated_from_small_batches(model, unordered, splits, features):
    """By a clock that goes on by a second whenever it is read, so that each batch takes one."""

    def estimate(model, **options):
        ticks = itertools.count()
        return estimate_duration_s(
            model, splits, features, samples=300, clock=lambda: next(ticks), **options
        )

    test, new, train = (size / 64 for size in (splits.test.size, 300, splits.train.size))
    codec_s = test + LENGTH * (test + 1)  # encode; decode and compare at each number of codes
    prior_s = new + LENGTH * (new + 1 + train)  # draw; decode, compare and find neighbours
    assert estimate(model) == pytest.approx(codec_s + prior_s)
    assert estimate(model, unordered=unordered) == pytest.approx(2 * (codec_s + prior_s))
    one = test + test + 1 + new + new + 1 + train
    assert estimate(model, codes=[2]) == pytest.approx(one)
    with pytest.raises(InputError, match="at least 2"):
        estimate_duration_s(model, splits, features, samples=1)


def test_every_budget_is_measured_and_more_codes_are_better(curve, model):
    assert [point.codes for point in curve.points] == list(range(1, LENGTH + 1))
    errors = [point.mse for point in curve.points]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    assert curve.points[-1].fd_sample < curve.points[0].fd_sample / 2
    assert curve.points[2].bits == pytest.approx(3 * math.log2(model.vocabulary))
    assert (curve.num_samples, curve.num_test_samples, curve.num_train_samples) == (300, 200, 200)


def test_reconstruction_figures_are_those_of_the_whole_test_split(curve, model, splits, features):
    k, x = 3, splits.test.data
    reconstructed = model.decode(model.encode(x)[:, :k])
    point = curve.points[k - 1]
    assert point.mse == pytest.approx(float((reconstructed - x).square().mean()), rel=1e-5)
    assert point.psnr == pytest.approx(10 * math.log10(4 / point.mse))
    distance = compare(features, x, reconstructed).fd
    assert point.fd_reconstruction == pytest.approx(distance, rel=1e-3)
    quality = compare(features, x, reconstructed, paired=True).quality
    assert point.reconstruction_metrics.model_dump() == pytest.approx(
        quality.model_dump(), rel=1e-2
    )
    assert 0 < point.reconstruction_metrics.fd_stderr < point.fd_reconstruction


@pytest.mark.usefixtures("curve")
def test_one_draw_and_one_encoding_serve_every_budget(model, splits):
    assert model.draws == [(300, LENGTH, 0)]
    asked = splits.train.size + splits.test.size  # of the prior, what they cost
    assert model.encoded == splits.test.size + asked


def test_samples_are_measured_on_prefixes_of_that_draw(curve, model, splits, features):
    samples = model.decode(model.sample_codes(300, seed=0)[:, :2])
    distance = compare(features, splits.test.data, samples).fd
    assert curve.points[1].fd_sample == pytest.approx(distance, rel=1e-3)
    quality = compare(features, splits.test.data, samples).quality
    assert curve.points[1].sample_metrics.model_dump() == pytest.approx(
        quality.model_dump(), rel=1e-2
    )


def test_baselines_are_measured_at_the_same_budgets(curve):
    ordered, baselines = curve.points, curve.baselines
    for point, other in zip(ordered[:-1], baselines.unordered[:-1], strict=True):
        assert point.mse < other.mse
    assert ordered[0].fd_sample < baselines.unordered[0].fd_sample
    # With all codes kept, their order does not matter.
    assert ordered[-1].mse == pytest.approx(baselines.unordered[-1].mse, rel=1e-4)
    for point, other in zip(ordered, baselines.pca, strict=True):
        assert other.codes == point.codes
        assert other.mse < 1.02 * point.mse


def test_the_floor_is_a_random_draw_of_training_images(curve, splits, model, features):
    assert 0 < curve.fd_train < curve.points[0].fd_sample
    order = splits.train.labels.argsort()  # a folder of classes comes sorted
    by_class = FakeSplit(splits.train.data[order], splits.train.labels[order])
    data = FakeSplits(by_class, splits.test)
    sorted_curve = evaluate(model, data, features, samples=10, codes=[1])
    first = compare(features, splits.test.data, by_class.data[:200]).fd
    assert sorted_curve.fd_train < first / 5


def test_a_codec_without_a_prior_is_a_baseline_for_reconstruction(model, basis, splits, features):
    codec = FakeCodec(basis.flip(1))
    points = evaluate(
        model, splits, features, samples=50, codes=[2], unordered=codec
    ).baselines.unordered
    assert points[0].fd_reconstruction is not None
    assert points[0].fd_sample is None


def test_without_features_there_are_no_distances(model, splits):
    curve = evaluate(model, splits, None, codes=[2, 4])
    assert [point.codes for point in curve.points] == [2, 4]
    assert all(p.fd_sample is p.fd_reconstruction is None and p.mse > 0 for p in curve.points)
    assert curve.fd_train is None
    assert curve.near_lossless_codes is None
    assert model.draws == []


def test_time_is_the_median_at_batch_one_after_a_warm_up(splits, basis):
    now = [0.0]

    class Slow(FakeModel):
        calls = 0

        def sample(self, n, *, codes=None, seed=0, **choice):
            assert n == 1
            # The warm-up is slow, and one later draw is disturbed.
            now[0] += {0: 9.0, 2: 5.0}.get(self.calls, 0.001 * codes)
            self.calls = (self.calls + 1) % 6
            return super().sample(n, codes=codes, seed=seed, **choice)

    model = Slow(basis, source=splits.train.data)
    points = evaluate(model, splits, None, codes=[1, 4], clock=lambda: now[0]).points
    assert [point.ms for point in points] == pytest.approx([1.0, 4.0])


def test_a_choice_of_codes_is_what_is_drawn_timed_and_recorded(model, splits, features):
    choice = {"guidance": 2.0, "temperature": 0.9}
    curve = evaluate(model, splits, features, samples=50, codes=[2, 4], sampling_params=choice)
    assert curve.sampling_params == choice
    assert len(model.choices) > 2  # one draw for all distances, and those that are timed
    assert all(given == choice for given in model.choices)
    plain = evaluate(model, splits, features, samples=50, codes=[2])
    assert plain.sampling_params == model.choices[-1] == {}


def test_streams_of_unknown_size_are_measured_alike(curve, model, splits, features):
    train = FakeSplit(splits.train.data, splits.train.labels, sized=False)
    test = FakeSplit(splits.test.data, splits.test.labels, sized=False)
    stream = evaluate(model, FakeSplits(train, test), features, samples=300, batch_size=64)
    assert stream.points[0].mse == pytest.approx(curve.points[0].mse)
    assert stream.fd_train == pytest.approx(curve.fd_train)
    assert (stream.num_test_samples, stream.num_train_samples) == (200, 200)
    assert stream.baselines.pca == curve.baselines.pca


def test_progress_ends_at_its_total(model, unordered, splits, features):
    seen = []
    evaluate(
        model,
        splits,
        features,
        samples=10,
        codes=[1, 3],
        unordered=unordered,
        progress=lambda *step: seen.append(step),
    )
    assert [done for done, _, _ in seen] == list(range(1, seen[-1][1] + 1))
    assert "ordered, samples of 3 codes" in [what for _, _, what in seen]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codes": [0, 3, 7]}, r"codes \[0, 7\] are outside 1..6"),
        ({"codes": []}, "codes is empty"),
        ({"samples": 1}, "samples must be at least 2 .* got 1"),
    ],
)
def test_bad_options(model, splits, features, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(model, splits, features, **options)


def test_things_that_do_not_fit_together(model, unordered, splits, features):
    large = FakeSplit(torch.zeros(4, 1, 16, 16), None)
    with pytest.raises(InputError, match=r"samples are \(1, 16, 16\) and the model's \(1, 8, 8\)"):
        evaluate(model, FakeSplits(splits.train, large), features)
    single = FakeSplit(splits.test.data[:1], None)
    with pytest.raises(InputError, match="at least 2 training and 2 test samples, got 400 and 1"):
        evaluate(model, FakeSplits(splits.train, single), features)
    model.sample_shape = (1, 16, 16)
    with pytest.raises(InputError, match=r"features are for samples of shape \(1, 8, 8\)"):
        evaluate(model, FakeSplits(large, large), features)
    model.sample_shape, unordered.code_length = (1, 8, 8), 5
    with pytest.raises(InputError, match="baseline has 5 codes and the model 6"):
        evaluate(model, splits, features, unordered=unordered)


def test_an_autoencoder_alone_is_measured_without_samples_and_time(splits, model, features):
    model.can_sample = False
    curve = evaluate(model, splits, features, samples=50, codes=[1, 6])
    assert [point.ms for point in curve.points] == [None, None]
    assert [point.fd_sample for point in curve.points] == [None, None]
    assert all(point.fd_reconstruction is not None for point in curve.points)
    assert model.draws == []


def test_what_a_classifier_reads(model, unordered, splits, features):
    names = tuple("abcd")
    labelled = FakeSplits(splits.train, splits.test, label_names=names)
    model.labels = names
    curve = evaluate(model, labelled, features, samples=450, codes=[1, 6], unordered=unordered)
    assert model.asked == splits.test.labels.repeat(3)[:450].tolist()
    assert unordered.asked is None  # it cannot be asked
    first, last = curve.points
    made = model.decode(model.encode(splits.test.data)[:, :1])
    with torch.no_grad():
        read = features.logits(made).argmax(1)
    assert first.label_accuracy_reconstruction == pytest.approx(
        (read == splits.test.labels).double().mean().item()
    )
    assert first.label_accuracy_reconstruction < last.label_accuracy_reconstruction
    assert last.label_accuracy_reconstruction == pytest.approx(curve.label_accuracy_test, abs=0.02)
    assert curve.label_accuracy_test > 0.95
    with torch.no_grad():  # the stand-in draws what it wants, whatever it is asked for
        read = features.logits(model.decode(model.sample_codes(450, seed=0))).argmax(1)
    agreed = read == splits.test.labels.repeat(3)[:450]
    assert last.label_accuracy_sample == pytest.approx(agreed.double().mean().item())
    assert [point.label_accuracy_sample for point in curve.baselines.unordered] == [None, None]


@pytest.mark.parametrize("names", [None, ("a", "b", "c", "d", "e")])
def test_nothing_is_read_where_labels_are_not_those_of_the_classifier(
    names, model, splits, features
):
    other = FakeSplits(splits.train, splits.test, label_names=names)
    curve = evaluate(model, other, features, samples=10, codes=[6])
    assert model.asked is None
    assert (
        curve.label_accuracy_test
        is curve.points[0].label_accuracy_reconstruction
        is curve.points[0].label_accuracy_sample
        is None
    )


@pytest.mark.parametrize("length", [1, 6, 64, 65, 100, 128, 768])
def test_default_budgets(length):
    budgets = default_budgets(length)
    assert budgets == sorted(set(budgets))
    assert budgets[0] == 1
    assert budgets[-1] == length
    if length <= 64:
        assert len(budgets) == length
    else:
        assert {round(length * share) for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2)} <= set(budgets)
        assert len(budgets) < 30


class Copying(FakeModel):
    """Its samples are training images: code 1000 + i of a sample is image i."""

    def sample_codes(self, n, **_):
        return 1000 + torch.arange(n)[:, None].expand(n, self.code_length)

    def decode(self, codes):
        copies = self.source[(codes[:, 0] - 1000).clamp_min(0)]
        return torch.where(codes[:, 0, None, None, None] >= 1000, copies, super().decode(codes))


def test_copies_of_training_samples_are_told_from_new_ones(basis, splits, features):
    new = FakeModel(basis, source=patterns(200, seed=3).data)
    copying = Copying(basis, source=splits.train.data)
    budgets = {"codes": [2, LENGTH], "samples": 100}
    told = [evaluate(model, splits, features, **budgets).points for model in (new, copying)]
    assert [point.nn_distance_ratio for point in told[0]] == pytest.approx([1, 1], abs=0.1)
    assert [point.nn_distance_ratio for point in told[1]] == pytest.approx([0, 0], abs=1e-3)


def test_the_prior_is_asked_what_both_splits_cost(model, splits, features):
    curve = evaluate(model, splits, features, samples=20, codes=[1])
    train, test = (model.encode(split.data) for split in (splits.train, splits.test))
    assert curve.nll_train == pytest.approx(float((train % 7).float().mean()))
    assert curve.nll_test == pytest.approx(float((test % 7).float().mean()))
    assert all(label is None for _, label in model.scored)


def test_how_each_code_is_used(model, splits, features):
    """Entropies by SciPy, of the codes of the test split."""
    curve = evaluate(model, splits, features, samples=20, codes=[1], batch_size=37)
    codes = model.encode(splits.test.data)
    assert [use.position for use in curve.codebook_usage] == list(range(1, LENGTH + 1))
    for i, use in enumerate(curve.codebook_usage):
        counts = codes[:, i].bincount(minlength=model.vocabulary).numpy()
        assert use.entropy == pytest.approx(scipy.stats.entropy(counts, base=2))
        assert use.used_fraction == pytest.approx((counts > 0).mean())
        assert use.nll == pytest.approx(float((codes[:, i] % 7).float().mean()))


def test_without_a_prior_codes_cost_nothing(basis, splits):
    assert {use.nll for use in evaluate(FakeCodec(basis), splits, None).codebook_usage} == {None}


def test_a_conditional_prior_is_asked_with_labels(basis, splits, features):
    names = ("a", "b", "c", "d")
    data = FakeSplits(splits.train, splits.test, label_names=names)
    model = FakeModel(basis, source=splits.train.data, labels=names)
    evaluate(model, data, features, samples=20, codes=[1], batch_size=50)
    labels = {
        tuple(codes): label
        for split in (splits.train, splits.test)
        for codes, label in zip(
            model.encode(split.data).tolist(), split.labels.tolist(), strict=True
        )
    }
    asked = [
        (labels[tuple(row)], one)
        for codes, some in model.scored
        for row, one in zip(codes.tolist(), some, strict=True)
    ]
    assert len(asked) == 600
    assert all(right == one for right, one in asked)


def test_two_runs_give_the_same_figures(model, splits, features):
    first, second = (
        evaluate(model, splits, features, samples=60, codes=[3], clock=itertools.count().__next__)
        for _ in range(2)
    )
    assert first == second


def test_training_samples_stand_at_the_floor_and_noise_far_off(basis, splits, features):
    class Noise(FakeModel):
        def decode(self, codes):
            generator = torch.Generator().manual_seed(0)
            return torch.rand(len(codes), 1, 8, 8, generator=generator) * 2 - 1

    real, noise = (
        evaluate(kind(basis, source=splits.train.data), splits, features, samples=200, codes=[1])
        for kind in (Copying, Noise)
    )
    assert 0 < real.points[0].fd_sample < 2 * real.fd_train
    assert noise.points[0].fd_sample > 20 * noise.fd_train
    assert real.points[0].sample_metrics.precision > 0.8 > noise.points[0].sample_metrics.precision


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_the_caller_change_no_figure(mode, curve, model, unordered, splits, features):
    with MODES[mode]():
        found = evaluate(model, splits, features, samples=300, unordered=unordered, batch_size=64)
    untimed = {"points": {"__all__": {"ms"}}}
    assert found.model_dump(exclude=untimed) == curve.model_dump(exclude=untimed)
