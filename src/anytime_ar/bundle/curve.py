"""The measured curve: quality and cost of a model at every budget, and of its baselines.

The figures are those of Xu et al. 2021 (arXiv 2102.11495, section 5): reconstruction error and
Fréchet distance against the number of kept codes. This module holds the record and its JSON form;
`anytime_ar.evaluation.evaluate` measures it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from anytime_ar.config import Config
from anytime_ar.errors import BundleError, InputError

NEAR_LOSSLESS_FD_RATIO = 1.02
"""A sample FD of at most this multiple of the best counts as no loss."""

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class DistributionMetrics(Config):
    """What tells a set of samples from the test split, beside its Fréchet distance.

    Errors are standard errors: how much another set of so many samples would differ, or, of
    reconstructions, another test split. None where there are too few to tell.
    """

    fd_stderr: NonNegative | None
    """Of the Fréchet distance."""
    kd: Finite
    """Kernel distance: the squared maximum mean discrepancy with a cubic kernel (KID); unbiased, so
    it can fall below 0."""
    kd_stderr: NonNegative | None
    precision: Fraction
    """Share of the samples that are as near to a test sample as its neighbours are."""
    precision_stderr: NonNegative
    recall: Fraction
    """Share of the test samples that are as near to a sample as its neighbours are."""
    recall_stderr: NonNegative


class QualityPoint(Config):
    """Quality of the unordered autoencoder, cut to a number of codes."""

    codes: int = Field(ge=1)
    """k, the number of codes kept."""
    mse: NonNegative
    """Mean squared error of reconstructions of the test split, on the [-1, 1] scale."""
    psnr: Finite | None
    """`psnr(mse)` in dB; None where the reconstruction is exact."""
    fd_reconstruction: NonNegative | None
    """Fréchet distance of reconstructed test samples to the test split; None if not measured."""
    fd_sample: NonNegative | None
    """Fréchet distance of new samples to the test split; None if not measured."""
    reconstruction_metrics: DistributionMetrics | None = None
    """More about them as a set; None if not measured."""
    sample_metrics: DistributionMetrics | None = None
    """More about the new samples as a set; None if not measured."""
    nn_distance_ratio: NonNegative | None = None
    """Median distance of new samples to their nearest training sample, over that of reconstructions
    of the test split from as many codes: about 1, and below it if samples are copies. None if not
    measured."""
    metrics: dict[str, Finite] = Field({})
    """Further figures of reconstructions of the test split, by name: means over samples. For
    sounds, `snr`, `si_sdr` and `mel` in dB, `stft` and `stoi`."""
    label_accuracy_reconstruction: Fraction | None = None
    """Share of the test split whose label the classifier reads in the reconstruction."""
    label_accuracy_sample: Fraction | None = None
    """Share of new samples in which the classifier reads the label that they were drawn for."""


class CurvePoint(QualityPoint):
    """Quality and cost of the model at one budget."""

    bits: NonNegative
    """k·log2 V, what k codes carry when stored plainly."""
    ms: NonNegative | None
    """Median wall time of drawing and decoding one sample at batch 1; None if not measured."""


class CodebookUsage(Config):
    """How a model uses one of its codes, over the test split."""

    position: int = Field(ge=1)
    """1 for the first code, up to L."""
    entropy: NonNegative
    """Of the code by itself, in bits; at most log2 V, which is what it carries in `bits`."""
    used_fraction: Fraction
    """Of its V entries, those that occur."""
    nll: NonNegative | None
    """What the prior pays for it, given those before it, in nats; None without a prior."""


class PCAPoint(Config):
    """Reconstruction from the first k principal components of the training split."""

    codes: int = Field(ge=1)
    """k, the number of components; each is a real number, not a code of log2 V bits."""
    mse: NonNegative
    """Mean squared error over the test split, on the [-1, 1] scale."""


class Baselines(Config):
    """What the curve is compared with, measured in the same run."""

    unordered: tuple[QualityPoint, ...] = ()
    """The same autoencoder trained without truncation."""
    pca: tuple[PCAPoint, ...] = ()
    """The best linear ordered code."""


class Curve(Config):
    """Quality and cost against the number of codes; the content of curve.json."""

    format_version: Literal[2] = 2
    code_length: int = Field(ge=1)
    """L."""
    vocabulary: int = Field(ge=1)
    """V."""
    points: tuple[CurvePoint, ...] = Field(min_length=1)
    """By rising number of codes."""
    near_lossless_codes: int | None
    """The fewest codes whose fd_sample is within 2 % of the best; None if not measured."""
    fd_train: NonNegative | None
    """Fréchet distance of real training samples to the test split; None if not measured."""
    train_metrics: DistributionMetrics | None = None
    """More about them as a set; None if not measured."""
    label_accuracy_test: Fraction | None = None
    """Share of the test split itself whose label the classifier reads; None if not measured."""
    num_train_samples: int
    """How many training samples the floor was measured on."""
    num_samples: int
    """How many new samples stand behind each fd_sample."""
    num_test_samples: int
    """The size of the test split."""
    seed: int
    """Of the samples drawn."""
    nll_train: NonNegative | None = None
    """What the prior pays for a code of training samples, in nats; None if not measured."""
    nll_test: NonNegative | None = None
    """The same of test samples: the more above, the more the prior knows by heart."""
    codebook_usage: tuple[CodebookUsage, ...] = ()
    """By position, all L of them; empty if not measured."""
    sampling_params: dict[str, Finite | tuple[Finite, ...]] = Field({})
    """How their codes were chosen, as far as that was given: temperature, top_k, top_p, guidance,
    each the same for all codes or several values from the first to the last; the rest is as the
    model does of its own."""
    baselines: Baselines = Baselines()

    @model_validator(mode="after")
    def _check_points(self) -> Self:
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
        first, last = self.points[0], self.points[-1]
        return (
            f"Curve({len(self.points)} budgets, {first.codes} to {last.codes} of "
            f"{self.code_length} codes: mse {first.mse:.4g} to {last.mse:.4g}, fd_sample "
            f"{_format_number(first.fd_sample)} to {_format_number(last.fd_sample)})"
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """The curve as a table, for notebooks."""
        names = ("codes", "bits", "mse", "psnr", "fd_reconstruction", "fd_sample", "ms")
        lines = [[_format_number(getattr(point, name)) for name in names] for point in self.points]
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(
            f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for cells in lines
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def to_json(self) -> str:
        """Indented JSON with null for what was not measured; never NaN."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Curve:
        """Read a curve.json.

        Raises:
            BundleError: the file is missing, not JSON, or not a curve that this version knows.
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
    """Peak signal-to-noise ratio in dB, 10·log10(4 / mse): the range [-1, 1] is 2 wide.

    None for mse = 0, where it would be infinite.
    """
    return 10 * math.log10(4 / mse) if mse > 0 else None


def near_lossless_codes(points: Sequence[QualityPoint]) -> int | None:
    """The fewest codes whose fd_sample is within 2 % of the best; None if none was measured."""
    measured = [(point.codes, point.fd_sample) for point in points if point.fd_sample is not None]
    if not measured:
        return None
    best = min(distance for _, distance in measured)
    return min(codes for codes, distance in measured if distance <= NEAR_LOSSLESS_FD_RATIO * best)
