"""The evaluation of one model: its measurements, and the curve that they give."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from anytime_ar.bundle.curve import (
    Baselines,
    CodebookUsage,
    Curve,
    CurvePoint,
    PCAPoint,
    QualityPoint,
    near_lossless_codes,
    psnr,
)
from anytime_ar.codes import Vocabulary, bits, vocabulary_sizes
from anytime_ar.errors import InputError, require_extras
from anytime_ar.evaluation.feature_cache import FeatureCache
from anytime_ar.evaluation.feature_extractor import (
    AnyFeatureExtractor,
    FeatureExtractor,
    classifier_accuracy,
)
from anytime_ar.evaluation.metrics.distribution import (
    MAX_PAIRWISE_SAMPLES,
    NUM_QUERIES,
    DistributionComparison,
    ReferenceDistribution,
    nearest_neighbour_distances,
)
from anytime_ar.evaluation.metrics.pca import fit_pca
from anytime_ar.evaluation.metrics.reconstruction import Metric, MetricAccumulator
from anytime_ar.evaluation.protocols import (
    Codec,
    EvaluationBatch,
    EvaluationData,
    EvaluationSplit,
    GenerativeModel,
    SamplingKwargs,
)
from anytime_ar.runtime.distributed import DistributedContext
from anytime_ar.runtime.progress import ProgressCallback, no_progress
from anytime_ar.runtime.torch_modes import default_torch_modes

_MIN_TIMED_SAMPLES, _MAX_TIMED_SAMPLES, _MIN_TIMED_S = 5, 100, 0.2
"""Minimum and maximum number of timed samples, and minimum seconds of all together: one sample of a
millisecond is short compared with other activity of the machine."""
_NUM_ESTIMATED = 64
"""Number of samples that are timed for an estimate."""
NLL_SAMPLES = 2000
"""Number of samples of each split for the prior's likelihood, enough for a precision of a
thousandth."""


@dataclass
class Evaluator:
    """The settings and functions that all measurements of one evaluation share."""

    data: EvaluationData
    """Training and test split of the data set."""
    batch_size: int
    """Number of samples decoded together."""
    num_test_samples: int
    """Number of samples of the test split."""
    num_samples: int
    """Number of new samples behind each fd_sample."""
    seed: int
    """Random seed of the new samples."""
    sampling_params: SamplingKwargs
    """Sampling parameters of new samples, as keyword arguments of the model."""
    extract_features: Callable[[Tensor], Tensor] | None
    """Maps samples on any device to features float32 [B, F] on the CPU; None: no distances."""
    to_distance_space: Callable[[Tensor], Tensor]
    """Maps samples to the space of nearest neighbours; see `nearest_neighbour_distances`."""
    reference: ReferenceDistribution | None
    """Distribution of the test split; None without features."""
    logits: Callable[[Tensor], Tensor] | None
    """Maps samples to logits of the classifier; None if its labels are not those of the data."""
    test_labels: Tensor | None
    """Labels of the test split, int64 [N]; None if the classifier's labels are not those of the
    data."""
    distributed: DistributedContext
    """Processes that share the work."""
    progress: ProgressCallback
    """Callback after every measurement, with the numbers done and in total."""
    num_steps: int
    """Number of measurements in total."""
    metrics: Sequence[Metric] = ()
    """Further metrics of reconstructions, of other packages."""
    num_done: int = field(default=0)
    """Number of measurements done so far."""

    def _new_means(self, codec: Codec) -> MetricAccumulator:
        shape = tuple(codec.sample_shape)
        return MetricAccumulator(shape, codec.sample_rate, self.logits, self.metrics)

    def encode_test_split(self, codec: Codec) -> list[Tensor]:
        """Return codes int64 [B, L] of the test split, one tensor per batch."""
        test = sample_batches(self.data.test, self.batch_size)
        return list(self.distributed.map_in_order(test, lambda x: codec.encode(x).cpu()))

    def measure_quality(
        self, codec: Codec, encoded: Sequence[Tensor], budgets: Sequence[int], name: str
    ) -> tuple[QualityPoint, ...]:
        """Measure reconstructions and, with a prior, new samples at each number of codes.

        Args:
            codec: model to measure.
            encoded: codes int64 [B, L] of the test split, one tensor per batch.
            budgets: numbers of codes, rising, 1..L.
            name: name of the model in progress messages.
        """
        drawn, labels = self._sample_codes(codec, budgets[-1])
        points = []
        for k in budgets:
            means = self._new_means(codec)
            reconstructions = self._compare_features(
                self._reconstruction_features(codec, encoded, k, means), True
            )
            self._advance(f"{name}, reconstruction from {k} codes")
            samples, read = None, _LabelAccuracy(self.logits, labels)
            if drawn is not None:
                samples = self._compare_features(
                    self._sample_features(codec, drawn[:, :k], read), False
                )
            self._advance(f"{name}, samples of {k} codes")
            points.append(
                QualityPoint(
                    codes=k,
                    mse=means.mse,
                    psnr=psnr(means.mse),
                    fd_reconstruction=None if reconstructions is None else reconstructions.fd,
                    fd_sample=None if samples is None else samples.fd,
                    reconstruction_metrics=None
                    if reconstructions is None
                    else reconstructions.quality,
                    sample_metrics=None if samples is None else samples.quality,
                    nn_distance_ratio=self._nearest_neighbour_ratio(codec, encoded, drawn, k),
                    metrics=means.metrics,
                    label_accuracy_reconstruction=means.label_accuracy,
                    label_accuracy_sample=read.accuracy,
                )
            )
        return tuple(points)

    def _nearest_neighbour_ratio(
        self, codec: Codec, encoded: Sequence[Tensor], drawn: Tensor | None, k: int
    ) -> float | None:
        if drawn is None:
            return None
        tests = torch.cat(list(encoded))
        last = min(len(tests), len(drawn)) - 1
        # The same indices of both, all over the split, so that the labels are the same.
        indices = torch.linspace(0, last, min(NUM_QUERIES, 1 + last)).round().long()
        query_codes = torch.cat([drawn[indices, :k], tests[indices, :k]])
        queries = torch.cat(
            [codec.decode(some).cpu() for some in query_codes.split(self.batch_size)]
        )
        training = sample_batches(self.data.train, self.batch_size)
        distances = nearest_neighbour_distances(queries, training, self.to_distance_space).chunk(2)
        of_samples, of_tests = (float(some.median()) for some in distances)
        return of_samples / of_tests if of_tests else None  # there is no ratio to a distance of 0

    def per_code_nll(self, codec: Codec, split: EvaluationSplit, count: int) -> Tensor | None:
        """Return the mean negative log-likelihood of each code in nats, float64 [L].

        Args:
            codec: model to measure.
            split: split of the data set, from which samples are drawn at random.
            count: number of samples, at most `NLL_SAMPLES` of which are used.

        Returns:
            The means over samples; None for a model without a prior.
        """
        sampler = as_generative_model(codec)
        if sampler is None:
            return None
        known = sampler.labels is not None and sampler.labels == self.data.label_names
        left = count = min(count, NLL_SAMPLES)
        total = torch.zeros(sampler.code_length, dtype=torch.float64)
        batches = split.shuffled(self.batch_size, self.seed)
        while left:
            batch = next(batches)
            x = batch.data[:left]
            label = None
            if batch.labels is not None and known:
                label = batch.labels[: len(x)].tolist()
            total += sampler.nll(sampler.encode(x), label=label).double().sum(0).cpu()
            left -= len(x)
        return total / count

    def _sample_codes(self, codec: Codec, codes: int) -> tuple[Tensor | None, Tensor | None]:
        """Draw codes of new samples, with the labels of the test split, repeated as needed.

        Returns:
            Codes int64 [n, k] and labels int64 [n]. Both are None without a prior or features. The
            labels are None where the classifier cannot predict them.
        """
        sampler = as_generative_model(codec)
        if sampler is None or self.reference is None:
            return None, None
        labels = None
        if self.test_labels is not None and sampler.labels == self.data.label_names:
            turns = -(-self.num_samples // len(self.test_labels))
            labels = self.test_labels.repeat(turns)[: self.num_samples]

        def draw(rows: Tensor) -> Tensor:
            label = None if labels is None else labels[rows].tolist()
            return sampler.sample_codes(
                len(rows),
                codes=codes,
                seed=self.seed,
                first=int(rows[0]),
                label=label,
                **self.sampling_params,
            ).cpu()

        shares = torch.arange(self.num_samples).tensor_split(
            min(self.distributed.world_size, self.num_samples)
        )
        return torch.cat(list(self.distributed.map_in_order(shares, draw))), labels

    def _reconstruction_features(
        self, codec: Codec, encoded: Sequence[Tensor], k: int, means: MetricAccumulator
    ) -> Iterator[Tensor | None]:
        """Yield features of the decoded test split by batch, and add its metrics to `means`."""

        def work(task: tuple[EvaluationBatch, Tensor]) -> tuple[Tensor | None, MetricAccumulator]:
            batch, codes = task
            decoded = codec.decode(codes[:, :k]).cpu()
            found = self._new_means(codec)
            found.add(decoded, batch.data, batch.labels)
            return None if self.extract_features is None else self.extract_features(decoded), found

        batches = self.data.test.batches(self.batch_size)
        for features, found in self.distributed.map_in_order(
            zip(batches, encoded, strict=True), work
        ):
            means.merge(found)
            yield features

    def _sample_features(
        self, codec: Codec, codes: Tensor, read: _LabelAccuracy
    ) -> Iterator[Tensor | None]:
        """Yield features of new samples by batch, and count the predicted labels in `read`."""

        def work(rows: Tensor) -> tuple[Tensor | None, int]:
            decoded = codec.decode(codes[rows]).cpu()
            right = read.count_correct(decoded, rows)
            return None if self.extract_features is None else self.extract_features(decoded), right

        batches = torch.arange(len(codes)).split(self.batch_size)
        for features, right in self.distributed.map_in_order(batches, work):
            read.add(right)
            yield features

    def time_sample_ms(self, model: GenerativeModel, k: int, clock: Callable[[], float]) -> float:
        """Return the median wall time in ms of one sample of k codes, on rank 0 alone."""
        return self.distributed.run_on_rank_zero(lambda: self._time_sample_ms(model, k, clock))

    def _time_sample_ms(self, model: GenerativeModel, k: int, clock: Callable[[], float]) -> float:
        times: list[float] = []
        for draw in range(-1, _MAX_TIMED_SAMPLES):
            if len(times) >= _MIN_TIMED_SAMPLES and sum(times) >= _MIN_TIMED_S:
                break
            start = clock()
            model.sample(
                1, codes=k, seed=self.seed + 1 + draw, **self.sampling_params
            ).cpu()  # synchronise with the device
            if draw >= 0:  # the first sample is the warm-up
                times.append(clock() - start)
        self._advance(f"time of {k} codes")
        return 1000 * statistics.median(times)

    def measure_pca(self, budgets: Sequence[int]) -> tuple[PCAPoint, ...]:
        """Return the reconstruction errors of PCA, for budgets up to the number of dimensions."""
        train, test = self.data.train, self.data.test
        fitted = fit_pca(lambda: sample_batches(train, self.batch_size), budgets[-1])
        total = torch.zeros(fitted.components.shape[1], dtype=torch.float64)
        for x in sample_batches(test, self.batch_size):
            total += fitted.squared_errors(x).sum(dim=0)
        errors = (total / (self.num_test_samples * len(fitted.mean))).tolist()
        self._advance("PCA")
        return tuple(PCAPoint(codes=k, mse=errors[k - 1]) for k in budgets if k <= len(errors))

    def compare_to_test_split(self, samples: Iterator[Tensor]) -> DistributionComparison | None:
        """Compare samples with the test split.

        Args:
            samples: batches float32 [B, *sample_shape].

        Returns:
            The comparison; None without features.
        """
        if self.extract_features is None:
            return None
        return self._compare_features(
            self.distributed.map_in_order(samples, self.extract_features), False
        )

    def _compare_features(
        self, features: Iterator[Tensor | None], paired: bool
    ) -> DistributionComparison | None:
        """Compare features with the test split.

        Args:
            features: batches float32 [B, F].
            paired: whether sample i was made from test sample i.

        Returns:
            The comparison; None without features.
        """
        if self.reference is None:
            for _ in features:  # iterate, since the generator counts metrics
                pass
            return None
        return self.reference.compare(
            (some for some in features if some is not None), paired=paired
        )

    def _advance(self, what: str) -> None:
        self.num_done += 1
        self.progress(self.num_done, self.num_steps, what)


class _LabelAccuracy:
    """The share of samples whose requested label a classifier predicts.

    Args:
        logits: maps samples to logits of the classifier; None: not measured.
        labels: int64 [n], the labels requested; None: not measured.
    """

    def __init__(self, logits: Callable[[Tensor], Tensor] | None, labels: Tensor | None) -> None:
        """Start with zero correct predictions."""
        self._logits, self._labels = logits, labels
        self._right = 0

    def count_correct(self, samples: Tensor, rows: Tensor) -> int:
        """Return the number of correct predictions for samples [B, ...] of indices `rows` [B]."""
        if self._logits is None or self._labels is None:
            return 0
        return int((self._logits(samples).argmax(1).cpu() == self._labels[rows]).sum())

    def add(self, right: int) -> None:
        """Add a number of correct predictions to the sum."""
        self._right += right

    @property
    def accuracy(self) -> float | None:
        """Share of correct predictions, in [0, 1]; None if not measured."""
        if self._logits is None or self._labels is None:
            return None
        return self._right / len(self._labels)


def code_usage(
    encoded: Sequence[Tensor], vocabulary: Vocabulary, nll: Tensor | None
) -> tuple[CodebookUsage, ...]:
    """Return the usage of the codebook entries at each position.

    Args:
        encoded: codes int64 [B, L] of the test split, one tensor per batch.
        vocabulary: V, the number of values of a code, of all positions or of each.
        nll: float64 [L], mean negative log-likelihood of each code in nats; None without a prior.
    """
    length = encoded[0].shape[1]
    sizes = vocabulary_sizes(vocabulary, length)
    counts = torch.zeros(length, max(sizes), dtype=torch.float64)
    for codes in encoded:
        counts.scatter_add_(1, codes.T, torch.ones(codes.T.shape, dtype=torch.float64))
    shares = counts / counts.sum(1, keepdim=True)
    entropies = -torch.special.xlogy(shares, shares).sum(1) / math.log(2)
    return tuple(
        CodebookUsage(
            position=i + 1,
            entropy=max(0.0, float(entropies[i])),
            used_fraction=float((counts[i, : sizes[i]] > 0).double().mean()),
            nll=None if nll is None else float(nll[i]),
        )
        for i in range(length)
    )


def as_generative_model(codec: Codec) -> GenerativeModel | None:
    """Return the codec as a generative model, None if it has no prior."""
    return codec if isinstance(codec, GenerativeModel) and codec.can_sample else None


def sample_batches(split: EvaluationSplit, batch_size: int) -> Iterator[Tensor]:
    """Yield the samples of a split in order, in batches float32 [B, *sample_shape]."""
    return (batch.data for batch in split.batches(batch_size))


@default_torch_modes()
def evaluate(
    model: Codec,
    data: EvaluationData,
    extractor: AnyFeatureExtractor | None,
    *,
    samples: int = 10_000,
    codes: Sequence[int] | None = None,
    unordered: Codec | None = None,
    seed: int = 0,
    sampling_params: SamplingKwargs | None = None,
    metrics: Sequence[Metric] = (),
    batch_size: int = 256,
    feature_cache: Path | None = None,
    progress: ProgressCallback = no_progress,
    clock: Callable[[], float] = time.perf_counter,
) -> Curve:
    """Measure reconstruction, samples and time at each number of codes, with both baselines.

    Where `torch.distributed` is initialised, its processes share the work. All of them get the
    curve that a single process would get.

    The reference of every Fréchet distance is the test split. `fd_train` is the distance of random
    training samples, as many as the test split has (or as the training split has).

    Args:
        model: ordered model; without a prior, its samples and time are left out.
        data: training split (for PCA, `fd_train` and the memorisation check) and test split.
        extractor: network whose features define the distances between sets; None leaves them out.
        samples: number of new samples behind each fd_sample, at least 2.
        codes: numbers of codes to measure, 1..L; None: see `default_budgets`.
        unordered: the same autoencoder trained without truncation, or None. With a prior, its
            samples are measured too.
        seed: random seed of the new samples.
        sampling_params: temperature, top_k, top_p and guidance of the samples, as keyword arguments
            of the model; None: the model's defaults.
        metrics: further metrics of reconstructions, which the curve holds by their names.
        batch_size: number of samples decoded together.
        feature_cache: folder that stores features of the test split for later evaluations; None: no
            cache.
        progress: called after every measurement.
        clock: returns the time in seconds, for `ms`: one sample at batch 1, the median of 5 to 100
            samples after a warm-up.

    Raises:
        InputError: a number of codes is out of range, shapes do not fit, or a split is too small.
        MissingExtraError: the extra `eval` is not installed.
    """
    require_extras("evaluation", "eval")
    budgets = resolve_budgets(model, codes)
    test_samples = _num_samples(data.test)
    _check(model, data, extractor, unordered, samples, test_samples)
    sampler = as_generative_model(model)
    classifier = extractor if isinstance(extractor, FeatureExtractor) else None
    labels = None if classifier is None else _test_labels(data, classifier)
    extract = extractor if classifier is None else _features_function(classifier)
    processes = DistributedContext()
    real = None
    if extractor is not None and extract is not None:
        test = partial(sample_batches, data.test, batch_size)
        if feature_cache is None:
            real = processes.map_in_order(test(), extract)
        else:
            real = FeatureCache(feature_cache, extractor, processes).get_or_compute(test, extract)
    evaluator = Evaluator(
        data=data,
        batch_size=batch_size,
        num_test_samples=test_samples,
        num_samples=samples,
        seed=seed,
        sampling_params=sampling_params or {},
        metrics=metrics,
        extract_features=extract,
        to_distance_space=_identity if classifier is None else classifier.to_images,
        reference=None if real is None else ReferenceDistribution(real),
        logits=None if labels is None or classifier is None else _logits_function(classifier),
        test_labels=labels,
        distributed=processes,
        progress=progress,
        num_steps=len(budgets) * (2 + (sampler is not None) + 2 * (unordered is not None)) + 1,
    )
    # A stream of unknown size counts as large enough; a shorter one is repeated.
    train_samples = test_samples if data.train.size is None else data.train.size
    num_train_samples = 0 if extractor is None else min(test_samples, train_samples)
    train_comparison = evaluator.compare_to_test_split(
        _random_samples(data.train, num_train_samples, batch_size, seed)
    )
    encoded = evaluator.encode_test_split(model)
    ordered = evaluator.measure_quality(model, encoded, budgets, "ordered")
    milliseconds = [
        None if sampler is None else evaluator.time_sample_ms(sampler, k, clock) for k in budgets
    ]
    points = tuple(
        CurvePoint(**dict(point), bits=bits(point.codes, model.vocabulary), ms=ms)
        for point, ms in zip(ordered, milliseconds, strict=True)
    )
    baselines = Baselines(
        unordered=()
        if unordered is None
        else evaluator.measure_quality(
            unordered, evaluator.encode_test_split(unordered), budgets, "unordered"
        ),
        pca=evaluator.measure_pca(budgets),
    )
    train_nll = evaluator.per_code_nll(model, data.train, train_samples)
    test_nll = evaluator.per_code_nll(model, data.test, test_samples)
    return Curve(
        code_length=model.code_length,
        vocabulary=model.vocabulary,
        points=points,
        near_lossless_codes=near_lossless_codes(points),
        fd_train=None if train_comparison is None else train_comparison.fd,
        train_metrics=None if train_comparison is None else train_comparison.quality,
        label_accuracy_test=None
        if labels is None or classifier is None
        else classifier_accuracy(classifier, data.test),
        num_train_samples=num_train_samples,
        num_samples=samples,
        num_test_samples=test_samples,
        seed=seed,
        nll_train=None if train_nll is None else float(train_nll.mean()),
        nll_test=None if test_nll is None else float(test_nll.mean()),
        codebook_usage=code_usage(encoded, model.vocabulary, test_nll),
        sampling_params=dict(sampling_params or {}),
        baselines=baselines,
    )


@default_torch_modes()
def estimate_duration_s(
    model: Codec,
    data: EvaluationData,
    extractor: AnyFeatureExtractor,
    *,
    samples: int,
    codes: Sequence[int] | None = None,
    unordered: Codec | None = None,
    sampling_params: SamplingKwargs | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return about how many seconds `evaluate` takes, from the time of small batches of its work.

    Args:
        model: ordered model.
        data: training and test split.
        extractor: network whose features define the distances.
        samples: number of new samples behind each fd_sample.
        codes: numbers of codes to measure; None: see `default_budgets`.
        unordered: the same autoencoder trained without truncation, or None.
        sampling_params: sampling parameters of the samples.
        clock: returns the time in seconds.

    Raises:
        InputError: shapes do not fit, or a split is too small.
    """
    num_test, sampler = _num_samples(data.test), as_generative_model(model)
    _check(model, data, extractor, unordered, samples, num_test)
    x = next(data.test.batches(_NUM_ESTIMATED)).data
    classifier = extractor if isinstance(extractor, FeatureExtractor) else None
    extract = extractor if classifier is None else _features_function(classifier)

    def seconds(work: Callable[[], object]) -> float:
        work()  # warm-up
        begin = clock()
        work()
        return clock() - begin

    encoded = model.encode(x)
    encode_s = seconds(lambda: model.encode(x)) / len(x)
    decode_s = seconds(lambda: extract(model.decode(encoded).cpu())) / len(x)
    num_features = extract(x).shape[1]

    def compare_s(count: int) -> float:
        generator = torch.Generator().manual_seed(0)
        real, made = (
            torch.randn(min(n, MAX_PAIRWISE_SAMPLES), num_features, generator=generator)
            for n in (num_test, count)
        )
        reference = ReferenceDistribution([real])
        return seconds(lambda: reference.compare([made]))

    each = num_test * decode_s + compare_s(num_test)
    once = num_test * encode_s
    if sampler is not None:
        params = sampling_params or {}
        once += (
            samples
            / len(x)
            * seconds(
                lambda: sampler.sample_codes(
                    len(x), codes=model.code_length, seed=0, first=0, label=None, **params
                )
            )
        )
        to_space = _identity if classifier is None else classifier.to_images
        queries = x[:1].expand(2 * NUM_QUERIES, *x.shape[1:])
        neighbours = partial(nearest_neighbour_distances, queries, [x], to_space)
        num_train = num_test if data.train.size is None else data.train.size
        each += samples * decode_s + compare_s(samples) + num_train * seconds(neighbours) / len(x)
    models = 1 if unordered is None else 2
    return models * (once + each * len(resolve_budgets(model, codes)))


def _logits_function(extractor: FeatureExtractor) -> Callable[[Tensor], Tensor]:
    """Return the classifier's logits as a function of samples on any device."""
    device = extractor.head.weight.device
    return lambda samples: extractor.logits(samples.to(device))


def _identity(samples: Tensor) -> Tensor:
    return samples


def _features_function(extractor: FeatureExtractor) -> Callable[[Tensor], Tensor]:
    """Return a function from samples on any device to features on the CPU."""
    device = extractor.head.weight.device
    return lambda samples: extractor(samples.to(device)).cpu()


def _test_labels(data: EvaluationData, extractor: FeatureExtractor) -> Tensor | None:
    """Return labels int64 [N] of the test split.

    None if the data set has no labels, or other classes than the classifier.
    """
    names, trained_on = data.label_names, extractor.trained_on
    if names is None or len(names) != extractor.label_count:
        return None
    if trained_on is not None and trained_on.labels != names:
        return None
    found = [batch.labels for batch in data.test.batches(1024) if batch.labels is not None]
    return torch.cat(found) if found else None


def default_budgets(code_length: int) -> list[int]:
    """Return the numbers of codes to measure by default.

    These are all numbers up to L = 64. For longer codes they are the twentieths of L from L/10 on,
    L/16, L/8, and the powers of two below L/16.
    """
    if code_length <= 64:
        return list(range(1, code_length + 1))
    budgets = {round(code_length * share / 20) for share in range(2, 21)}
    budgets |= {round(code_length / 16), round(code_length / 8)}
    power = 1
    while power < code_length / 16:
        budgets.add(power)
        power *= 2
    return sorted(budgets)


def resolve_budgets(model: Codec, codes: Sequence[int] | None) -> list[int]:
    """Return the numbers of codes to measure, sorted and checked.

    Args:
        model: model to measure.
        codes: numbers of codes, 1..L; None: see `default_budgets`.

    Raises:
        InputError: a number is out of range, or there are none.
    """
    budgets = default_budgets(model.code_length) if codes is None else sorted(set(codes))
    wrong = [k for k in budgets if not 1 <= k <= model.code_length]
    if wrong or not budgets:
        raise InputError(
            f"codes {wrong} are outside 1..{model.code_length}, the model's code length"
            if wrong
            else "codes is empty; pass at least one number of codes, or None for all"
        )
    return budgets


def _check(
    model: Codec,
    data: EvaluationData,
    extractor: AnyFeatureExtractor | None,
    unordered: Codec | None,
    samples: int,
    test_samples: int,
) -> None:
    if samples < 2:
        raise InputError(f"samples must be at least 2 for a Fréchet distance, got {samples}")
    if test_samples < 2 or (data.train.size is not None and data.train.size < 2):
        raise InputError(
            f"evaluation needs at least 2 training and 2 test samples, got {data.train.size} and "
            f"{test_samples}"
        )
    shape = tuple(next(data.test.batches(1)).data.shape[1:])
    if shape != tuple(model.sample_shape):
        raise InputError(
            f"the data set's samples are {shape} and the model's {tuple(model.sample_shape)}; "
            "evaluate on the data set that the model was trained on"
        )
    if isinstance(extractor, FeatureExtractor) and extractor.sample_shape != shape:
        raise InputError(
            f"the features are for samples of shape {extractor.sample_shape}, the data set's are "
            f"{shape}; train features on this data set with `anytime train-classifier`"
        )
    if unordered is not None and unordered.code_length != model.code_length:
        raise InputError(
            f"the unordered baseline has {unordered.code_length} codes and the model "
            f"{model.code_length}; train the baseline with the model's configuration"
        )


def _num_samples(split: EvaluationSplit) -> int:
    return sum(len(x) for x in sample_batches(split, 1024)) if split.size is None else split.size


def _random_samples(
    split: EvaluationSplit, count: int, batch_size: int, seed: int
) -> Iterator[Tensor]:
    """Yield `count` random samples of a split, in batches float32 [B, *sample_shape].

    The first samples of a sorted data set would be of one class only.
    """
    batches = split.shuffled(batch_size, seed)
    while count > 0:
        batch = next(batches).data[:count]
        count -= len(batch)
        yield batch
