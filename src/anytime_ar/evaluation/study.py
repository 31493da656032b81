"""One evaluation under way: what its measurements share, and each of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anytime_ar.curve import BaselinePoint, CodeUse, PCAPoint, psnr
from anytime_ar.evaluation.measures import Means
from anytime_ar.evaluation.nearness import QUERIES, nearest_distances
from anytime_ar.evaluation.pca import fit_pca
from anytime_ar.evaluation.protocols import (
    Batch,
    Choice,
    Codec,
    Model,
    Progress,
    Split,
    Splits,
)
from anytime_ar.evaluation.reference import Reference, SetComparison
from anytime_ar.evaluation.workers import Workers

_TIMED_DRAWS, _MOST_TIMED_DRAWS, _TIMED_S = 5, 100, 0.2
"""A time is of so many draws at least, and of more until they took so many seconds: a draw of a
millisecond is short beside what else a machine does."""
NATS_SAMPLES = 2000
"""Of each split: the prior's costs are known to a thousandth."""


@dataclass
class Study:
    """What all measurements of one evaluation share."""

    data: Splits
    batch_size: int
    test_samples: int
    samples: int
    seed: int
    choice: Choice
    """Of samples, as keyword arguments of the model."""
    features: Callable[[Tensor], Tensor] | None
    """Of samples anywhere, on the CPU: float32 [B, F]."""
    picture: Callable[[Tensor], Tensor]
    """What samples are compared in one by one; see `nearest_distances`."""
    reference: Reference | None
    """The test split, where there are features."""
    logits: Callable[[Tensor], Tensor] | None
    """Of the classifier, where its labels are those of the data."""
    test_labels: Tensor | None
    """int64 [N], where the classifier's labels are those of the data."""
    workers: Workers
    progress: Progress
    total: int
    done: int = field(default=0)

    def encoded(self, codec: Codec) -> list[Tensor]:
        """Codes int64 [B, L] of the test split, a batch at a time."""
        test = data_of(self.data.test, self.batch_size)
        return list(self.workers.each(test, lambda x: codec.encode(x).cpu()))

    def quality(
        self, codec: Codec, encoded: Sequence[Tensor], budgets: Sequence[int], name: str
    ) -> tuple[BaselinePoint, ...]:
        """Reconstruction of the encoded test split and, where there is a prior, sample quality at
        each budget."""
        drawn, labels = self._draw(codec, budgets[-1])
        points = []
        for k in budgets:
            means = Means(tuple(codec.sample_shape), codec.sample_rate, self.logits)
            reconstructions = self._compared(self._reconstructed(codec, encoded, k, means), True)
            self._tick(f"{name}, reconstruction from {k} codes")
            samples, read = None, _Readings(self.logits, labels)
            if drawn is not None:
                samples = self._compared(self._drawn(codec, drawn[:, :k], read), False)
            self._tick(f"{name}, samples of {k} codes")
            points.append(
                BaselinePoint(
                    codes=k,
                    mse=means.mse,
                    psnr=psnr(means.mse),
                    fd_reconstruction=None if reconstructions is None else reconstructions.fd,
                    fd_sample=None if samples is None else samples.fd,
                    reconstructions=None if reconstructions is None else reconstructions.quality,
                    samples=None if samples is None else samples.quality,
                    nearness=self._nearness(codec, encoded, drawn, k),
                    measures=means.measures,
                    accuracy=means.accuracy,
                    agreement=read.share,
                )
            )
        return tuple(points)

    def _nearness(
        self, codec: Codec, encoded: Sequence[Tensor], drawn: Tensor | None, k: int
    ) -> float | None:
        if drawn is None:
            return None
        tests = torch.cat(list(encoded))
        last = min(len(tests), len(drawn)) - 1
        # The same places of both, all over the split: they have the same labels.
        places = torch.linspace(0, last, min(QUERIES, 1 + last)).round().long()
        looked_for = torch.cat([drawn[places, :k], tests[places, :k]])
        queries = torch.cat(
            [codec.decode(some).cpu() for some in looked_for.split(self.batch_size)]
        )
        training = data_of(self.data.train, self.batch_size)
        distances = nearest_distances(queries, training, self.picture).chunk(2)
        of_samples, of_tests = (float(some.median()) for some in distances)
        return of_samples / of_tests if of_tests else None  # nothing is nearer than a test sample

    def nats(self, codec: Codec, split: Split, count: int) -> Tensor | None:
        """What its prior pays for each code, float64 [L], in the mean over `count` samples of a
        split or fewer, drawn at random; None without one."""
        sampler = sampler_of(codec)
        if sampler is None:
            return None
        known = sampler.labels is not None and sampler.labels == self.data.label_names
        left = count = min(count, NATS_SAMPLES)
        total = torch.zeros(sampler.code_length, dtype=torch.float64)
        batches = split.shuffled(self.batch_size, self.seed)
        while left:
            batch = next(batches)
            x = batch.data[:left]
            asked = None
            if batch.labels is not None and known:
                asked = batch.labels[: len(x)].tolist()
            total += sampler.nats(sampler.encode(x), label=asked).double().sum(0).cpu()
            left -= len(x)
        return total / count

    def _draw(self, codec: Codec, codes: int) -> tuple[Tensor | None, Tensor | None]:
        """Codes of new samples and, where the classifier can read them, the labels asked for:
        those of the test split in turn."""
        sampler = sampler_of(codec)
        if sampler is None or self.reference is None:
            return None, None
        labels = None
        if self.test_labels is not None and sampler.labels == self.data.label_names:
            turns = -(-self.samples // len(self.test_labels))
            labels = self.test_labels.repeat(turns)[: self.samples]

        def draw(rows: Tensor) -> Tensor:
            asked = None if labels is None else labels[rows].tolist()
            return sampler.sample_codes(
                len(rows),
                codes=codes,
                seed=self.seed,
                first=int(rows[0]),
                label=asked,
                **self.choice,
            ).cpu()

        shares = torch.arange(self.samples).tensor_split(min(self.workers.count, self.samples))
        return torch.cat(list(self.workers.each(shares, draw))), labels

    def _reconstructed(
        self, codec: Codec, encoded: Sequence[Tensor], k: int, means: Means
    ) -> Iterator[Tensor | None]:
        """Features of the decoded test split, a batch at a time; everything is counted in means."""

        def work(task: tuple[Batch, Tensor]) -> tuple[Tensor | None, Means]:
            batch, codes = task
            decoded = codec.decode(codes[:, :k]).cpu()
            found = Means(tuple(codec.sample_shape), codec.sample_rate, self.logits)
            found.add(decoded, batch.data, batch.labels)
            return None if self.features is None else self.features(decoded), found

        batches = self.data.test.batches(self.batch_size)
        for features, found in self.workers.each(zip(batches, encoded, strict=True), work):
            means.merge(found)
            yield features

    def _drawn(self, codec: Codec, codes: Tensor, read: _Readings) -> Iterator[Tensor | None]:
        """Features of drawn samples, a batch at a time; what the classifier reads is counted."""

        def work(rows: Tensor) -> tuple[Tensor | None, int]:
            decoded = codec.decode(codes[rows]).cpu()
            right = read.right(decoded, rows)
            return None if self.features is None else self.features(decoded), right

        batches = torch.arange(len(codes)).split(self.batch_size)
        for features, right in self.workers.each(batches, work):
            read.count(right)
            yield features

    def milliseconds(self, model: Model, k: int, clock: Callable[[], float]) -> float:
        """Median wall time of one sample of k codes at batch 1, of the first process alone."""
        return self.workers.first(lambda: self._milliseconds(model, k, clock))

    def _milliseconds(self, model: Model, k: int, clock: Callable[[], float]) -> float:
        times: list[float] = []
        for draw in range(-1, _MOST_TIMED_DRAWS):
            if len(times) >= _TIMED_DRAWS and sum(times) >= _TIMED_S:
                break
            start = clock()
            model.sample(
                1, codes=k, seed=self.seed + 1 + draw, **self.choice
            ).cpu()  # waits for the device
            if draw >= 0:  # the first one warms up
                times.append(clock() - start)
        self._tick(f"time of {k} codes")
        return 1000 * statistics.median(times)

    def pca(self, budgets: Sequence[int]) -> tuple[PCAPoint, ...]:
        """Reconstruction error of PCA, for budgets up to the number of dimensions."""
        train, test = self.data.train, self.data.test
        fitted = fit_pca(lambda: data_of(train, self.batch_size), budgets[-1])
        total = torch.zeros(fitted.components.shape[1], dtype=torch.float64)
        for x in data_of(test, self.batch_size):
            total += fitted.squared_errors(x).sum(dim=0)
        errors = (total / (self.test_samples * len(fitted.mean))).tolist()
        self._tick("PCA")
        return tuple(PCAPoint(codes=k, mse=errors[k - 1]) for k in budgets if k <= len(errors))

    def compare(self, samples: Iterator[Tensor]) -> SetComparison | None:
        """Samples float32 [B, *sample_shape] at a time with the test split, where there are
        features."""
        if self.features is None:
            return None
        return self._compared(self.workers.each(samples, self.features), False)

    def _compared(self, features: Iterator[Tensor | None], paired: bool) -> SetComparison | None:
        """With the test split, where there are features; `paired` if they are made from it."""
        if self.reference is None:
            for _ in features:  # what comes with them is counted all the same
                pass
            return None
        return self.reference.compare(
            (some for some in features if some is not None), paired=paired
        )

    def _tick(self, what: str) -> None:
        self.done += 1
        self.progress(self.done, self.total, what)


class _Readings:
    """How often a classifier reads the labels asked for."""

    def __init__(self, logits: Callable[[Tensor], Tensor] | None, labels: Tensor | None) -> None:
        self._logits, self._labels = logits, labels
        self._right = 0

    def right(self, samples: Tensor, rows: Tensor) -> int:
        """In how many of these samples [B, ...], whose numbers are `rows` [B]."""
        if self._logits is None or self._labels is None:
            return 0
        return int((self._logits(samples).argmax(1).cpu() == self._labels[rows]).sum())

    def count(self, right: int) -> None:
        """Add to the sum."""
        self._right += right

    @property
    def share(self) -> float | None:
        """Of all samples; None where nobody reads them."""
        if self._logits is None or self._labels is None:
            return None
        return self._right / len(self._labels)


def code_use(
    encoded: Sequence[Tensor], vocabulary: int, nats: Tensor | None
) -> tuple[CodeUse, ...]:
    """How each code is used in the encoded test split; `nats` float64 [L] is what each costs a
    prior."""
    length = encoded[0].shape[1]
    counts = torch.zeros(length, vocabulary, dtype=torch.float64)
    for codes in encoded:
        counts.scatter_add_(1, codes.T, torch.ones(codes.T.shape, dtype=torch.float64))
    shares = counts / counts.sum(1, keepdim=True)
    entropies = -torch.special.xlogy(shares, shares).sum(1) / math.log(2)
    return tuple(
        CodeUse(
            position=i + 1,
            entropy=max(0.0, float(entropies[i])),
            used=float((counts[i] > 0).double().mean()),
            nats=None if nats is None else float(nats[i]),
        )
        for i in range(length)
    )


def sampler_of(codec: Codec) -> Model | None:
    """The codec as a model to sample from, where it has a prior."""
    return codec if isinstance(codec, Model) and codec.can_sample else None


def data_of(split: Split, batch_size: int) -> Iterator[Tensor]:
    """The samples of a split, in order: float32 [B, *sample_shape] at a time."""
    return (batch.data for batch in split.batches(batch_size))
