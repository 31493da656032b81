"""Limits of sampling: a number of codes, a deadline, a quality, or a cancel flag."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from anytime_ar.bundle.curve import Curve
from anytime_ar.config import to_python
from anytime_ar.errors import InputError


@runtime_checkable
class CancelFlag(Protocol):
    """An object that can stop sampling, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Return whether sampling should stop."""
        ...


@dataclass(frozen=True)
class Budget:
    """Limits of one call. The first limit to be reached ends sampling.

    Raises:
        InputError: a number is out of range for every model.
    """

    codes: int | None = None
    """Maximum number of codes, 1..L; None: all of them."""
    deadline_s: float | None = None
    """Seconds from the call within which the decoded samples are returned."""
    quality: float | None = None
    """Share of the quality at full length, (0, 1]: stop at the fewest codes that reach it, see
    `codes_for_quality`."""
    cancel: CancelFlag | None = None
    """Flag that is checked before every code."""
    min_codes: int = 1
    """Minimum number of codes, whatever the flag says; a deadline has to leave time for them."""

    def __post_init__(self) -> None:
        """Convert the numbers to plain Python types and check their ranges."""
        for name in ("codes", "deadline_s", "quality", "min_codes"):
            object.__setattr__(self, name, to_python(getattr(self, name)))
        for name, count in (("codes", self.codes), ("min_codes", self.min_codes)):
            if count is None:
                continue
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise InputError(f"{name}={count} is no number of codes; pass a whole one from 1")
        if self.deadline_s is not None and not 0 < self.deadline_s < math.inf:
            raise InputError(
                f"deadline_s={self.deadline_s} is no time to draw in; pass seconds above 0"
            )
        if self.quality is not None and not 0 < self.quality <= 1:
            raise InputError(
                f"quality={self.quality} is no share of full quality; pass a number in (0, 1]"
            )
        if self.cancel is not None and not isinstance(self.cancel, CancelFlag):
            raise InputError(
                f"cancel={self.cancel!r} has no is_set(); pass a threading.Event or its like"
            )

    def max_codes(self, code_length: int, curve: Curve | None) -> int:
        """Return the largest number of codes that the budget allows for a model.

        Args:
            code_length: L, the number of codes of a whole sample.
            curve: the model's measured curve, which `quality` requires.

        Raises:
            InputError: `codes` or `min_codes` exceeds L, `min_codes` exceeds the maximum, or the
                model has no complete curve for `quality`.
        """
        for name, value in (("codes", self.codes), ("min_codes", self.min_codes)):
            if value is not None and value > code_length:
                raise InputError(
                    f"{name}={value} is outside 1..{code_length}, this model's code length; "
                    "pass a number in that range"
                )
        most = code_length if self.codes is None else self.codes
        if self.quality is not None:
            most = min(most, codes_for_quality(self.quality, curve))
        if self.min_codes > most:
            limit = f"codes={most}" if most == self.codes else f"quality={self.quality} ({most})"
            raise InputError(f"min_codes={self.min_codes} is more than {limit}; lower it")
        return most


def codes_for_quality(quality: float, curve: Curve | None) -> int:
    """Return the fewest measured codes that reach a share of the quality at full length.

    The quality of k codes is the Fréchet distance of samples with all codes, divided by that of
    samples with k codes. Where samples were not measured, the mean squared errors of
    reconstructions replace the distances. A curve of few samples gives a warning, which Python
    shows once.

    Args:
        quality: share of the quality at full length, (0, 1].
        curve: the model's measured curve; None: not evaluated.

    Raises:
        InputError: the model has no curve, or the curve ends before all L codes.
    """
    points = () if curve is None else curve.points
    if curve is None or points[-1].codes != curve.code_length:
        raise InputError(
            f"quality={quality} was asked of a model whose quality was not measured up to its full "
            "length; measure it with `anytime evaluate --save-curve`, or pass codes"
        )
    if curve.unreliable_because is not None:
        warnings.warn(
            f"the number of codes for a quality is a rough guess: the model's curve was "
            f"{curve.unreliable_because}; measure it again with more, or pass codes",
            stacklevel=2,
        )
    distances = [point.fd_sample for point in points]
    losses = [point.mse for point in points] if None in distances else distances
    full = losses[-1]
    assert full is not None
    return next(
        point.codes
        for point, loss in zip(points, losses, strict=True)
        if loss is not None and loss * quality <= full
    )


def quality_at_codes(codes: int, curve: Curve | None) -> float | None:
    """Return the share of the quality at full length that a number of codes reaches.

    The inverse of `codes_for_quality`.

    Args:
        codes: number of codes, 1..L; between two measured numbers, the lower one counts.
        curve: the model's measured curve; None: not evaluated.

    Returns:
        The share in [0, 1]; None where it was not measured.
    """
    if curve is None or curve.points[-1].codes != curve.code_length:
        return None
    reached = [point for point in curve.points if point.codes <= codes]
    full = curve.points[-1]
    if not reached:
        return None
    loss, best = reached[-1].fd_sample, full.fd_sample
    if any(point.fd_sample is None for point in curve.points):
        loss, best = reached[-1].mse, full.mse
    assert loss is not None
    assert best is not None
    return 1.0 if loss <= best else best / loss


@dataclass(frozen=True)
class ResolvedBudget:
    """A budget in codes of one model, which the decode loop checks before every code."""

    max_codes: int
    """Number of codes at which sampling stops at the latest, 1..L."""
    min_codes: int = 1
    """Number of codes before which sampling does not stop."""
    deadline_at: float | None = None
    """Time by which the decoded samples have to be there, in seconds on the clock of the sampler;
    None: no deadline."""
    cancel: CancelFlag | None = None
    """Flag that is checked before every code."""
