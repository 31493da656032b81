"""What evaluation needs of a model and of a data set, as structural types.

Anything with these members can be measured: the shipped models and data sets, or a user's own.
Tensors are handed over on the CPU and may come back on any device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


class EvaluationBatch(Protocol):
    """Some samples of a data set."""

    @property
    def data(self) -> Tensor:
        """float32 [B, *sample_shape] in [-1, 1]."""

    @property
    def labels(self) -> Tensor | None:
        """int64 [B], or None where the data set has no labels."""


class EvaluationSplit(Protocol):
    """One split of a data set."""

    @property
    def size(self) -> int | None:
        """The number of samples; None for a stream that does not say."""

    def batches(self, batch_size: int) -> Iterator[EvaluationBatch]:
        """Every sample once, in the same order each time; the last batch may be smaller."""

    def shuffled(self, batch_size: int, seed: int) -> Iterator[EvaluationBatch]:
        """Batches without end, reshuffled every epoch, the same for the same seed."""


class EvaluationData(Protocol):
    """The two splits that evaluation reads."""

    @property
    def train(self) -> EvaluationSplit:
        """What the model, the features and PCA were fitted on."""

    @property
    def test(self) -> EvaluationSplit:
        """What the model has never seen."""

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Name of each class, or None where there are no labels."""


class Codec(Protocol):
    """An autoencoder whose codes can be truncated to a prefix."""

    @property
    def code_length(self) -> int:
        """L."""

    @property
    def vocabulary(self) -> int:
        """V."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample: (C, H, W) of images, (1, T) of sounds."""

    @property
    def sample_rate(self) -> int | None:
        """Of sounds, in Hz."""

    def encode(self, x: Tensor) -> Tensor:
        """float32 [B, *sample_shape] to codes int64 [B, L]."""

    def decode(self, codes: Tensor) -> Tensor:
        """codes[:, :k] for any 1 <= k <= L to float32 [B, *sample_shape], in about [-1, 1]."""


SamplingKwargs = Mapping[str, float | Sequence[float]]
"""How codes are chosen: keyword arguments of a model's draws, as temperature or guidance."""


@runtime_checkable
class GenerativeModel(Codec, Protocol):
    """A codec with a prior, which can draw new samples."""

    @property
    def can_sample(self) -> bool:
        """Whether there is a prior to draw from."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes that the prior can draw; None where it is unconditional."""

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
        """int64 [n, k] of samples first..first + n - 1, for n labels or ones of the model's own
        choice; the codes of a shorter draw are a prefix of a longer one's."""

    def nll(self, codes: Tensor, *, label: Sequence[int] | None = None) -> Tensor:
        """What the prior pays for each code of int64 [B, k], -ln p: float32 [B, k]."""

    def sample(
        self, n: int, *, codes: int | None = None, seed: int = 0, **choice: float | Sequence[float]
    ) -> Tensor:
        """float32 [n, *sample_shape] from k codes each."""


class ProgressCallback(Protocol):
    """Told after every step of long work how far it is."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """`done` of `total` steps; `what` names the step just finished."""


def no_progress(done: int, total: int, what: str) -> None:
    """The progress callback of those who do not watch."""
