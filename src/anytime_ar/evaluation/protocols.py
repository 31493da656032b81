"""Protocols of the models and data sets that evaluation accepts.

Every object with these members can be evaluated: the shipped models and data sets, or a user's own.
Evaluation passes tensors on the CPU and accepts tensors on any device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from anytime_ar.codes import Vocabulary


class EvaluationBatch(Protocol):
    """A batch of samples of a data set."""

    @property
    def data(self) -> Tensor:
        """Samples float32 [B, *sample_shape] in [-1, 1]."""

    @property
    def labels(self) -> Tensor | None:
        """Labels int64 [B]; None if the data set has no labels."""


class EvaluationSplit(Protocol):
    """One split of a data set."""

    @property
    def size(self) -> int | None:
        """Number of samples; None for a stream of unknown length."""

    def batches(self, batch_size: int) -> Iterator[EvaluationBatch]:
        """Yield every sample once, in the same order each time; the last batch may be smaller."""

    def shuffled(self, batch_size: int, seed: int) -> Iterator[EvaluationBatch]:
        """Yield batches without end, reshuffled every epoch, in an order that the seed defines."""


class EvaluationData(Protocol):
    """A data set with the two splits that evaluation reads."""

    @property
    def train(self) -> EvaluationSplit:
        """The split that the model, the feature extractor and PCA are trained on."""

    @property
    def test(self) -> EvaluationSplit:
        """The split that the model was not trained on."""

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Names of the classes, by label; None without labels."""


class Codec(Protocol):
    """An autoencoder whose codes can be truncated to a prefix."""

    @property
    def code_length(self) -> int:
        """Number of codes of a whole sample, L."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Number of values that a code can take, V: one for all positions, or one for each."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W) of images, (C, T) of audio and series."""

    @property
    def sample_rate(self) -> int | None:
        """Sampling rate of audio in Hz; None for images."""

    def encode(self, x: Tensor) -> Tensor:
        """Encode samples float32 [B, *sample_shape] to codes int64 [B, L]."""

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes[:, :k], 1 <= k <= L, to float32 [B, *sample_shape] in about [-1, 1]."""


SamplingKwargs = Mapping[str, float | Sequence[float]]
"""Sampling parameters as keyword arguments of a model, such as temperature or guidance."""


@runtime_checkable
class GenerativeModel(Codec, Protocol):
    """A codec with a prior, which can generate new samples."""

    @property
    def can_sample(self) -> bool:
        """Return whether there is a prior to sample from."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes of a conditional prior; None for an unconditional one."""

    def sample_codes(
        self,
        n: int,
        *,
        codes: int | None = None,
        seed: int = 0,
        first: int = 0,
        label: Sequence[int] | None = None,
        **choice: float | Sequence[float],
    ) -> Tensor:
        """Draw codes int64 [n, k] of samples first..first + n - 1 of a seed.

        The codes of a smaller k are a prefix of those of a larger one.

        Args:
            n: number of samples.
            codes: number of codes, k, 1..L; None: all of them.
            seed: random seed of the samples.
            first: index of the first sample within the seed.
            label: n labels; None: random labels, if the model has any.
            choice: sampling parameters, see `SamplingKwargs`.
        """

    def nll(self, codes: Tensor, *, label: Sequence[int] | None = None) -> Tensor:
        """Return the negative log-likelihood of each code in nats, float32 [B, k].

        Args:
            codes: int64 [B, k].
            label: B labels; None: no label.
        """

    def sample(
        self, n: int, *, codes: int | None = None, seed: int = 0, **choice: float | Sequence[float]
    ) -> Tensor:
        """Generate samples float32 [n, *sample_shape] from k codes each.

        Args:
            n: number of samples.
            codes: number of codes, k, 1..L; None: all of them.
            seed: random seed of the samples.
            choice: sampling parameters, see `SamplingKwargs`.
        """
