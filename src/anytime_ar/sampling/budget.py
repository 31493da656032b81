"""How much work one draw may do: codes, seconds, a share of full quality, or until it is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from anytime_ar.bundle.curve import Curve
from anytime_ar.config import to_python
from anytime_ar.errors import InputError


@runtime_checkable
class CancelFlag(Protocol):
    """Tells a draw to stop; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...


@dataclass(frozen=True)
class Budget:
    """When to stop drawing. With several limits the first that binds ends the draw.

    Raises:
        InputError: a number that no model could keep to.
    """

    codes: int | None = None
    """At most this many codes, 1..L; None: all of them."""
    deadline_s: float | None = None
    """Seconds from the call within which the decoded samples are returned."""
    quality: float | None = None
    """The fewest codes that reach this share of the model's full quality, see `codes_for_quality`."""
    cancel: CancelFlag | None = None
    """Looked at before every code."""
    min_codes: int = 1
    """At least this many codes, whatever the flag says; a deadline has to leave time for them."""

    def __post_init__(self) -> None:
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
        """The codes that may be drawn at most from a model.

        Args:
            code_length: L.
            curve: the model's measured quality, which `quality` needs.

        Raises:
            InputError: more codes than L, a floor above them, or a quality that was not measured.
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
    """The fewest measured codes that reach a share of full quality.

    The quality of k codes is the Fréchet distance of samples with all codes, divided by that of
    samples with k; where no samples were measured, squared errors of reconstructions stand in.

    Args:
        quality: (0, 1].
        curve: of the model.

    Raises:
        InputError: the model has no curve, or it does not reach to all codes.
    """
    points = () if curve is None else curve.points
    if curve is None or points[-1].codes != curve.code_length:
        raise InputError(
            f"quality={quality} was asked of a model whose quality was not measured up to its full "
            "length; measure it with `anytime evaluate --attach`, or pass codes"
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
    """The share of full quality that a number of codes has, as `codes_for_quality` counts it.

    Args:
        codes: 1..L; between two that were measured, the lower one counts.
        curve: of the model.

    Returns:
        In [0, 1]; None where it was not measured.
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
    """A budget settled for one model: what the decode loop asks before every code."""

    max_codes: int
    """Stop here at the latest, 1..L."""
    min_codes: int = 1
    """Do not stop before."""
    deadline_at: float | None = None
    """When the decoded samples have to be there, on the clock of the draw."""
    cancel: CancelFlag | None = None
