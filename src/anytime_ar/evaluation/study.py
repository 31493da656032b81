"""One evaluation under way: what its measurements share, and each of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anytime_ar.curve import CodebookUsage, PCAPoint, QualityPoint, psnr
from anytime_ar.evaluation.measures import MetricAccumulator
from anytime_ar.evaluation.nearness import NUM_QUERIES, nearest_neighbour_distances
from anytime_ar.evaluation.pca import fit_pca
from anytime_ar.evaluation.protocols import (
    Codec,
    EvaluationBatch,
    EvaluationData,
    EvaluationSplit,
    GenerativeModel,
    ProgressCallback,
    SamplingKwargs,
)
from anytime_ar.evaluation.reference import DistributionComparison, ReferenceDistribution
from anytime_ar.evaluation.workers import EvaluationProcesses

_MIN_TIMED_SAMPLES, _MAX_TIMED_SAMPLES, _MIN_TIMED_S = 5, 100, 0.2
"""A time is of so many draws at least, and of more until they took so many seconds: a draw of a
millisecond is short beside what else a machine does."""
NLL_SAMPLES = 2000
"""Of each split: the prior's costs are known to a thousandth."""


@dataclass
class Evaluator:
    """What all measurements of one evaluation share."""

    data: EvaluationData
    batch_size: int
    num_test_samples: int
    num_samples: int
    seed: int
    sampling_params: SamplingKwargs
    """Of samples, as keyword arguments of the model."""
    extract_features: Callable[[Tensor], Tensor] | None
    """Of samples anywhere, on the CPU: float32 [B, F]."""
    to_distance_space: Callable[[Tensor], Tensor]
    """What samples are compared in one by one; see `nearest_neighbour_distances`."""
    reference: ReferenceDistribution | None
    """The test split, where there are features."""
    logits: Callable[[Tensor], Tensor] | None
    """Of the classifier, where its labels are those of the data."""
    test_labels: Tensor | None
    """int64 [N], where the classifier's labels are those of the data."""
    distributed: EvaluationProcesses
    progress: ProgressCallback
    num_steps: int
    num_done: int = field(default=0)

    def encode_test_split(self, codec: Codec) -> list[Tensor]:
        """Codes int64 [B, L] of the test split, a batch at a time."""
        test = sample_batches(self.data.test, self.batch_size)
        return list(self.distributed.map_in_order(test, lambda x: codec.encode(x).cpu()))

    def measure_quality(
        self, codec: Codec, encoded: Sequence[Tensor], budgets: Sequence[int], name: str
    ) -> tuple[QualityPoint, ...]:
        """Reconstruction of the encoded test split and, where there is a prior, sample quality at
        each budget."""
        drawn, labels = self._sample_codes(codec, budgets[-1])
        points = []
        for k in budgets:
            means = MetricAccumulator(tuple(codec.sample_shape), codec.sample_rate, self.logits)
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
                    reconstructions=None if reconstructions is None else reconstructions.quality,
                    samples=None if samples is None else samples.quality,
                    nearness=self._nearest_neighbour_ratio(codec, encoded, drawn, k),
                    measures=means.metrics,
                    accuracy=means.label_accuracy,
                    agreement=read.accuracy,
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
        # The same places of both, all over the split: they have the same labels.
        places = torch.linspace(0, last, min(NUM_QUERIES, 1 + last)).round().long()
        looked_for = torch.cat([drawn[places, :k], tests[places, :k]])
        queries = torch.cat(
            [codec.decode(some).cpu() for some in looked_for.split(self.batch_size)]
        )
        training = sample_batches(self.data.train, self.batch_size)
        distances = nearest_neighbour_distances(queries, training, self.to_distance_space).chunk(2)
        of_samples, of_tests = (float(some.median()) for some in distances)
        return of_samples / of_tests if of_tests else None  # nothing is nearer than a test sample

    def per_code_nll(self, codec: Codec, split: EvaluationSplit, count: int) -> Tensor | None:
        """What its prior pays for each code, float64 [L], in the mean over `add` samples of a
        split or fewer, drawn at random; None without one."""
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
            asked = None
            if batch.labels is not None and known:
                asked = batch.labels[: len(x)].tolist()
            total += sampler.nll(sampler.encode(x), label=asked).double().sum(0).cpu()
            left -= len(x)
        return total / count

    def _sample_codes(self, codec: Codec, codes: int) -> tuple[Tensor | None, Tensor | None]:
        """Codes of new samples and, where the classifier can read them, the labels asked for:
        those of the test split in turn."""
        sampler = as_generative_model(codec)
        if sampler is None or self.reference is None:
            return None, None
        labels = None
        if self.test_labels is not None and sampler.labels == self.data.label_names:
            turns = -(-self.num_samples // len(self.test_labels))
            labels = self.test_labels.repeat(turns)[: self.num_samples]

        def draw(rows: Tensor) -> Tensor:
            asked = None if labels is None else labels[rows].tolist()
            return sampler.sample_codes(
                len(rows),
                codes=codes,
                seed=self.seed,
                first=int(rows[0]),
                label=asked,
                **self.sampling_params,
            ).cpu()

        shares = torch.arange(self.num_samples).tensor_split(
            min(self.distributed.world_size, self.num_samples)
        )
        return torch.cat(list(self.distributed.map_in_order(shares, draw))), labels

    def _reconstruction_features(
        self, codec: Codec, encoded: Sequence[Tensor], k: int, means: MetricAccumulator
    ) -> Iterator[Tensor | None]:
        """Features of the decoded test split, a batch at a time; everything is counted in means."""

        def work(task: tuple[EvaluationBatch, Tensor]) -> tuple[Tensor | None, MetricAccumulator]:
            batch, codes = task
            decoded = codec.decode(codes[:, :k]).cpu()
            found = MetricAccumulator(tuple(codec.sample_shape), codec.sample_rate, self.logits)
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
        """Features of drawn samples, a batch at a time; what the classifier reads is counted."""

        def work(rows: Tensor) -> tuple[Tensor | None, int]:
            decoded = codec.decode(codes[rows]).cpu()
            right = read.count_correct(decoded, rows)
            return None if self.extract_features is None else self.extract_features(decoded), right

        batches = torch.arange(len(codes)).split(self.batch_size)
        for features, right in self.distributed.map_in_order(batches, work):
            read.add(right)
            yield features

    def time_sample_ms(self, model: GenerativeModel, k: int, clock: Callable[[], float]) -> float:
        """Median wall time of one sample of k codes at batch 1, of the first process alone."""
        return self.distributed.run_on_rank_zero(lambda: self._time_sample_ms(model, k, clock))

    def _time_sample_ms(self, model: GenerativeModel, k: int, clock: Callable[[], float]) -> float:
        times: list[float] = []
        for draw in range(-1, _MAX_TIMED_SAMPLES):
            if len(times) >= _MIN_TIMED_SAMPLES and sum(times) >= _MIN_TIMED_S:
                break
            start = clock()
            model.sample(
                1, codes=k, seed=self.seed + 1 + draw, **self.sampling_params
            ).cpu()  # waits for the device
            if draw >= 0:  # the first one warms up
                times.append(clock() - start)
        self._advance(f"time of {k} codes")
        return 1000 * statistics.median(times)

    def measure_pca(self, budgets: Sequence[int]) -> tuple[PCAPoint, ...]:
        """Reconstruction error of PCA, for budgets up to the number of dimensions."""
        train, test = self.data.train, self.data.test
        fitted = fit_pca(lambda: sample_batches(train, self.batch_size), budgets[-1])
        total = torch.zeros(fitted.components.shape[1], dtype=torch.float64)
        for x in sample_batches(test, self.batch_size):
            total += fitted.squared_errors(x).sum(dim=0)
        errors = (total / (self.num_test_samples * len(fitted.mean))).tolist()
        self._advance("PCA")
        return tuple(PCAPoint(codes=k, mse=errors[k - 1]) for k in budgets if k <= len(errors))

    def compare_to_test_split(self, samples: Iterator[Tensor]) -> DistributionComparison | None:
        """Samples float32 [B, *sample_shape] at a time with the test split, where there are
        features."""
        if self.extract_features is None:
            return None
        return self._compare_features(
            self.distributed.map_in_order(samples, self.extract_features), False
        )

    def _compare_features(
        self, features: Iterator[Tensor | None], paired: bool
    ) -> DistributionComparison | None:
        """With the test split, where there are features; `paired` if they are made from it."""
        if self.reference is None:
            for _ in features:  # what comes with them is counted all the same
                pass
            return None
        return self.reference.compare(
            (some for some in features if some is not None), paired=paired
        )

    def _advance(self, what: str) -> None:
        self.num_done += 1
        self.progress(self.num_done, self.num_steps, what)


class _LabelAccuracy:
    """How often a classifier reads the labels asked for."""

    def __init__(self, logits: Callable[[Tensor], Tensor] | None, labels: Tensor | None) -> None:
        self._logits, self._labels = logits, labels
        self._right = 0

    def count_correct(self, samples: Tensor, rows: Tensor) -> int:
        """In how many of these samples [B, ...], whose numbers are `rows` [B]."""
        if self._logits is None or self._labels is None:
            return 0
        return int((self._logits(samples).argmax(1).cpu() == self._labels[rows]).sum())

    def add(self, right: int) -> None:
        """Add to the sum."""
        self._right += right

    @property
    def accuracy(self) -> float | None:
        """Of all samples; None where nobody reads them."""
        if self._logits is None or self._labels is None:
            return None
        return self._right / len(self._labels)


def code_usage(
    encoded: Sequence[Tensor], vocabulary: int, nll: Tensor | None
) -> tuple[CodebookUsage, ...]:
    """How each code is used in the encoded test split; `nll` float64 [L] is what each costs a
    prior."""
    length = encoded[0].shape[1]
    counts = torch.zeros(length, vocabulary, dtype=torch.float64)
    for codes in encoded:
        counts.scatter_add_(1, codes.T, torch.ones(codes.T.shape, dtype=torch.float64))
    shares = counts / counts.sum(1, keepdim=True)
    entropies = -torch.special.xlogy(shares, shares).sum(1) / math.log(2)
    return tuple(
        CodebookUsage(
            position=i + 1,
            entropy=max(0.0, float(entropies[i])),
            used=float((counts[i] > 0).double().mean()),
            nats=None if nll is None else float(nll[i]),
        )
        for i in range(length)
    )


def as_generative_model(codec: Codec) -> GenerativeModel | None:
    """The codec as a model to sample from, where it has a prior."""
    return codec if isinstance(codec, GenerativeModel) and codec.can_sample else None


def sample_batches(split: EvaluationSplit, batch_size: int) -> Iterator[Tensor]:
    """The samples of a split, in order: float32 [B, *sample_shape] at a time."""
    return (batch.data for batch in split.batches(batch_size))
