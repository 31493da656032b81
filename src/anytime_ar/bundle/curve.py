"""The measured curve: quality and cost of a model and its baselines at each number of codes.

The metrics follow Xu et al. 2021 (arXiv 2102.11495, section 5): reconstruction error and Fréchet
distance against the number of codes. This module holds the record and its JSON form;
`anytime_ar.evaluation.evaluate` measures it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from anytime_ar.codes import as_vocabulary
from anytime_ar.config import Config
from anytime_ar.errors import BundleError, InputError

NEAR_LOSSLESS_FD_RATIO = 1.02
"""Ratio to the best sample FD up to which a number of codes counts as near lossless."""

MIN_RELIABLE_TEST_SAMPLES = 100
"""Fewest test samples from which `quality` is reliable. The standard error of a mean of n samples
is 1/√n of their spread: a tenth at 100, as much as separates 90 % of full quality from all of it.
"""
MIN_RELIABLE_NEW_SAMPLES = 1000
"""Fewest new samples from which `quality` is reliable, if it compares Fréchet distances. Small sets
raise all distances alike, so that short prefixes look nearly as good as all codes: on MNIST, 0.9 of
full quality takes 8 codes by 10,000 samples, mostly 6 by 1,000 and 2 to 4 by 100."""

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class DistributionMetrics(Config):
    """Metrics between a set of samples and the test split, besides its Fréchet distance.

    Standard errors say how much the metric varies with another set of as many samples. For
    reconstructions they say how much it varies with another test split. They are None for too few
    samples.
    """

    fd_stderr: NonNegative | None
    """Standard error of the Fréchet distance; None for too few samples."""
    kd: Finite
    """Kernel distance (KID): the squared maximum mean discrepancy with a cubic kernel. It is
    unbiased, so it can fall below 0."""
    kd_stderr: NonNegative | None
    """Standard error of the kernel distance; None for too few samples."""
    precision: Fraction
    """Share of the samples within the k-nearest-neighbour radius of a test sample."""
    precision_stderr: NonNegative
    """Standard error of the precision."""
    recall: Fraction
    """Share of the test samples within the k-nearest-neighbour radius of a sample."""
    recall_stderr: NonNegative
    """Standard error of the recall."""


class QualityPoint(Config):
    """Quality of an autoencoder and its prior at one number of codes."""

    codes: int = Field(ge=1)
    """Number of codes per sample, k."""
    mse: NonNegative
    """Mean squared error of reconstructions of the test split, on the [-1, 1] scale."""
    psnr: Finite | None
    """Peak signal-to-noise ratio of reconstructions in dB, `psnr(mse)`; None where the
    reconstruction is exact."""
    fd_reconstruction: NonNegative | None
    """Fréchet distance of reconstructed test samples to the test split; None if not measured."""
    fd_sample: NonNegative | None
    """Fréchet distance of new samples to the test split; None if not measured."""
    reconstruction_metrics: DistributionMetrics | None = None
    """Further distribution metrics of the reconstructions; None if not measured."""
    sample_metrics: DistributionMetrics | None = None
    """Further distribution metrics of the new samples; None if not measured."""
    nn_distance_ratio: NonNegative | None = None
    """Nearest-neighbour distance ratio, the memorisation check: the median distance of new samples
    to their nearest training sample, over that of reconstructed test samples of as many codes.
    About 1; below 1 if samples are copies. None if not measured."""
    metrics: dict[str, Finite] = Field({})
    """Further metrics of reconstructions of the test split, by name, as means over samples. For
    audio: `snr`, `si_sdr` and `mel` in dB, `stft` and `stoi`."""
    label_accuracy_reconstruction: Fraction | None = None
    """Share of the test split whose label the classifier predicts from the reconstruction; None if
    not measured."""
    label_accuracy_sample: Fraction | None = None
    """Share of new samples whose requested label the classifier predicts; None if not measured."""


class CurvePoint(QualityPoint):
    """Quality and cost of the model at one number of codes."""

    bits: NonNegative
    """Size of k codes in bits without entropy coding: k·log2 V, or the sum of log2 V of each."""
    ms: NonNegative | None
    """Median wall time in milliseconds of generating one sample at batch 1; None if not
    measured."""


class CodebookUsage(Config):
    """How a model uses the codebook entries at one position, over the test split."""

    position: int = Field(ge=1)
    """Position of the code: 1 for the first, L for the last."""
    entropy: NonNegative
    """Entropy of the code by itself in bits, at most log2 V."""
    used_fraction: Fraction
    """Share of the V entries that occur."""
    nll: NonNegative | None
    """Mean negative log-likelihood of the code given those before it, in nats; None without a
    prior."""


class PCAPoint(Config):
    """Reconstruction from the first k principal components of the training split."""

    codes: int = Field(ge=1)
    """Number of components, k; each is a real number, not a code of log2 V bits."""
    mse: NonNegative
    """Mean squared error over the test split, on the [-1, 1] scale."""


class Baselines(Config):
    """Baselines that the same evaluation measured."""

    unordered: tuple[QualityPoint, ...] = ()
    """Points of the same autoencoder trained without truncation; empty if not measured."""
    pca: tuple[PCAPoint, ...] = ()
    """Points of PCA, the best linear ordered code; empty if not measured."""


class Curve(Config):
    """Quality and cost against the number of codes; the content of curve.json."""

    format_version: Literal[2] = 2
    """Version of the curve format, always 2."""
    code_length: int = Field(ge=1)
    """Number of codes of a whole sample, L."""
    vocabulary: PositiveInt | tuple[PositiveInt, ...]
    """Number of values that a code can take, V: one for all positions, or one for each."""
    points: tuple[CurvePoint, ...] = Field(min_length=1)
    """Points by rising number of codes."""
    near_lossless_codes: int | None
    """The fewest codes whose fd_sample is within 2 % of the best; None if not measured."""
    fd_train: NonNegative | None
    """Fréchet distance of real training samples to the test split; None if not measured."""
    train_metrics: DistributionMetrics | None = None
    """Further distribution metrics of these training samples; None if not measured."""
    label_accuracy_test: Fraction | None = None
    """Share of the test split whose label the classifier predicts; None if not measured."""
    num_train_samples: int
    """Number of training samples behind `fd_train`."""
    num_samples: int
    """Number of new samples behind each fd_sample."""
    num_test_samples: int
    """Number of samples of the test split."""
    seed: int
    """Random seed of the new samples."""
    nll_train: NonNegative | None = None
    """Mean negative log-likelihood of a code of training samples, in nats; None if not measured."""
    nll_test: NonNegative | None = None
    """Mean negative log-likelihood of a code of test samples, in nats; None if not measured. It
    exceeds `nll_train` by more, the more the prior overfits."""
    codebook_usage: tuple[CodebookUsage, ...] = ()
    """Codebook usage at each of the L positions; empty if not measured."""
    sampling_params: dict[str, Finite | tuple[Finite, ...]] = Field({})
    """Sampling parameters that the evaluation was given: temperature, top_k, top_p and guidance,
    each a number or a schedule. The others are the bundle's defaults."""
    baselines: Baselines = Baselines()
    """Points of the baselines, measured in the same evaluation."""

    @property
    def unreliable_because(self) -> str | None:
        """Why the curve is too noisy for `quality`, in words; None: it has enough samples."""
        counts = [("test", self.num_test_samples, MIN_RELIABLE_TEST_SAMPLES)]
        if self.points[-1].fd_sample is not None:
            counts.append(("new", self.num_samples, MIN_RELIABLE_NEW_SAMPLES))
        few = [
            f"{count} {kind} samples (fewer than {least:,})"
            for kind, count, least in counts
            if count < least
        ]
        return f"measured with {' and '.join(few)}" if few else None

    @model_validator(mode="after")
    def _check_points(self) -> Self:
        as_vocabulary(self.vocabulary, self.code_length)
        for points in (self.points, self.baselines.unordered, self.baselines.pca):
            codes = [point.codes for point in points]
            if codes != sorted(set(codes)) or codes[-1:] > [self.code_length]:
                raise ValueError(f"codes must rise and be at most {self.code_length}, got {codes}")
        if self.near_lossless_codes != near_lossless_codes(self.points):
            raise ValueError(
                f"near_lossless_codes is {self.near_lossless_codes}, but the points say "
                f"{near_lossless_codes(self.points)}"
            )
        return self

    def __repr__(self) -> str:
        """Return the range of codes and of the main metrics."""
        first, last = self.points[0], self.points[-1]
        return (
            f"Curve({len(self.points)} budgets, {first.codes} to {last.codes} of "
            f"{self.code_length} codes: mse {first.mse:.4g} to {last.mse:.4g}, fd_sample "
            f"{_format_number(first.fd_sample)} to {_format_number(last.fd_sample)})"
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return the curve as an HTML table, for notebooks."""
        names = ("codes", "bits", "mse", "psnr", "fd_reconstruction", "fd_sample", "ms")
        lines = [[_format_number(getattr(point, name)) for name in names] for point in self.points]
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(
            f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for cells in lines
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def to_json(self) -> str:
        """Return indented JSON, with null for what was not measured and never NaN."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Curve:
        """Read a curve.json.

        Args:
            path: the file to read.

        Raises:
            BundleError: the file is missing, not JSON, or not a curve of this version.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BundleError(
                f"{path} does not exist; measure a curve with `anytime evaluate`"
            ) from error
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise BundleError(f"{path} holds a {type(values).__name__}, expected a curve object")
        try:
            return cls.parse(values, origin=str(path))
        except InputError as error:
            raise BundleError(f"{error}; measure it again with `anytime evaluate`") from error


def _format_number(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"


def psnr(mse: float) -> float | None:
    """Return the peak signal-to-noise ratio in dB, 10·log10(4 / mse), of the range [-1, 1].

    Args:
        mse: mean squared error on the [-1, 1] scale.

    Returns:
        The ratio; None for mse = 0, where it would be infinite.
    """
    return 10 * math.log10(4 / mse) if mse > 0 else None


def near_lossless_codes(points: Sequence[QualityPoint]) -> int | None:
    """Return the fewest codes whose fd_sample is within 2 % of the best.

    Args:
        points: points of a curve.

    Returns:
        The number of codes; None if fd_sample was not measured.
    """
    measured = [(point.codes, point.fd_sample) for point in points if point.fd_sample is not None]
    if not measured:
        return None
    best = min(distance for _, distance in measured)
    return min(codes for codes, distance in measured if distance <= NEAR_LOSSLESS_FD_RATIO * best)
