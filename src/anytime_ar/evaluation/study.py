"""One evaluation under way: what its measurements share, and each of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anytime_ar.curve import BaselinePoint, PCAPoint, psnr
from anytime_ar.evaluation.frechet import FrechetReference
from anytime_ar.evaluation.measures import Means
from anytime_ar.evaluation.pca import fit_pca
from anytime_ar.evaluation.protocols import Choice, Codec, Model, Progress, Split, Splits

_TIMED_DRAWS = 5


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
    reference: FrechetReference | None
    logits: Callable[[Tensor], Tensor] | None
    """Of the classifier, where its labels are those of the data."""
    test_labels: Tensor | None
    """int64 [N], where the classifier's labels are those of the data."""
    progress: Progress
    total: int
    done: int = field(default=0)

    def quality(self, codec: Codec, budgets: Sequence[int], name: str) -> tuple[BaselinePoint, ...]:
        """Reconstruction and, where there is a prior, sample quality at each budget."""
        encoded = [codec.encode(x).cpu() for x in data_of(self.data.test, self.batch_size)]
        drawn, labels = self._draw(codec, budgets[-1])
        points = []
        for k in budgets:
            means = self._means(codec)
            reconstructions = self._reconstructions(codec, encoded, k, means)
            fd_reconstruction = self.distance(reconstructions)
            for _ in reconstructions:  # without a reference nobody has consumed them
                pass
            self._tick(f"{name}, reconstruction from {k} codes")
            fd_sample, read = None, _Readings(self.logits, labels)
            if drawn is not None:
                parts = torch.split(drawn[:, :k], self.batch_size)
                fd_sample = self.distance(read.through(codec.decode(part).cpu() for part in parts))
            self._tick(f"{name}, samples of {k} codes")
            points.append(
                BaselinePoint(
                    codes=k,
                    mse=means.mse,
                    psnr=psnr(means.mse),
                    fd_reconstruction=fd_reconstruction,
                    fd_sample=fd_sample,
                    measures=means.measures,
                    accuracy=means.accuracy,
                    agreement=read.share,
                )
            )
        return tuple(points)

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
        asked = None if labels is None else labels.tolist()
        drawn = sampler.sample_codes(
            self.samples, codes=codes, seed=self.seed, label=asked, **self.choice
        )
        return drawn.cpu(), labels

    def _means(self, codec: Codec) -> Means:
        return Means(tuple(codec.sample_shape), codec.sample_rate, self.logits)

    def milliseconds(self, model: Model, k: int, clock: Callable[[], float]) -> float:
        """Median wall time of one sample of k codes at batch 1."""
        times = []
        for draw in range(1 + _TIMED_DRAWS):
            start = clock()
            model.sample(
                1, codes=k, seed=self.seed + draw, **self.choice
            ).cpu()  # waits for the device
            times.append(clock() - start)
        self._tick(f"time of {k} codes")
        return 1000 * statistics.median(times[1:])  # the first draw warms up

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

    def distance(self, samples: Iterator[Tensor]) -> float | None:
        return None if self.reference is None else self.reference.distance(samples)

    def _reconstructions(
        self, codec: Codec, encoded: Sequence[Tensor], k: int, means: Means
    ) -> Iterator[Tensor]:
        for batch, codes in zip(self.data.test.batches(self.batch_size), encoded, strict=True):
            decoded = codec.decode(codes[:, :k]).cpu()
            means.add(decoded, batch.data, batch.labels)
            yield decoded

    def _tick(self, what: str) -> None:
        self.done += 1
        self.progress(self.done, self.total, what)


class _Readings:
    """How often a classifier reads, in samples that pass through, the labels asked for."""

    def __init__(self, logits: Callable[[Tensor], Tensor] | None, labels: Tensor | None) -> None:
        self._logits, self._labels = logits, labels
        self._right, self._seen = 0, 0

    def through(self, samples: Iterator[Tensor]) -> Iterator[Tensor]:
        for batch in samples:
            if self._logits is not None and self._labels is not None:
                asked = self._labels[self._seen : self._seen + len(batch)]
                self._right += int((self._logits(batch).argmax(1).cpu() == asked).sum())
                self._seen += len(batch)
            yield batch

    @property
    def share(self) -> float | None:
        return self._right / self._seen if self._seen else None


def sampler_of(codec: Codec) -> Model | None:
    """The codec as a model to sample from, where it has a prior."""
    return codec if isinstance(codec, Model) and codec.can_sample else None


def data_of(split: Split, batch_size: int) -> Iterator[Tensor]:
    """The samples of a split, in order: float32 [B, *sample_shape] at a time."""
    return (batch.data for batch in split.batches(batch_size))
