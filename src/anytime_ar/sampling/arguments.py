"""Keyword arguments of a draw, and how they become a budget, settings and pauses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from anytime_ar.config import check_int, to_python
from anytime_ar.errors import InputError
from anytime_ar.prior import SamplingParams
from anytime_ar.sampling.budget import Budget, CancelFlag
from anytime_ar.sampling.loop import PreviewPolicy
from anytime_ar.sampling.plan import Label

Schedule = float | Sequence[float]
"""A number, or several for places at equal distances from the first code to the last, with straight
lines between them."""


class BudgetKwargs(TypedDict, total=False):
    """When a draw ends; with several limits, the first that binds. See `Budget`."""

    codes: int | None
    """k, codes per sample, 1..L, to which the cost is proportional; None: all of them."""
    deadline_s: float | None
    """Seconds from the call within which the samples are returned, with as many codes as fit."""
    quality: float | None
    """Share of full quality, (0, 1]: the fewest codes that the measured curve allows."""
    cancel: CancelFlag | None
    """Ends the draw within one code once it is set; a `threading.Event`, say."""
    min_codes: int
    """At least this many codes, whatever else is asked. Default 1."""


class SampleKwargs(BudgetKwargs, total=False):
    """Keyword arguments of `AnytimeModel.sample`, `draw` and `stream`."""

    budget: Budget | None
    """All limits in one value, instead of those above."""
    label: Label | Sequence[Label] | None
    """One class or n of them, by number or name; None: drawn from the training distribution."""
    seed: int | None
    """Sample i of a seed is the same whatever n, and a prefix whatever the budget; None: a fresh
    seed."""
    first: int
    """The number of the first sample within the seed, from 0, its default: `n=2, first=5` gives
    samples 5 and 6."""
    temperature: Schedule
    """Above 1 more varied, below 1 more typical; 0 takes the most likely code. Where this and
    the next three are not given, `bundle.card.choice` says: 1, None, 1 and 1 for most models."""
    top_k: int | None
    """Only the k most likely entries of each code."""
    top_p: Schedule
    """Only the most likely entries that together hold this probability, (0, 1]."""
    guidance: Schedule
    """Classifier-free guidance: above 1 follows the label more strongly."""


_SAMPLING_PARAM_NAMES = tuple(SamplingParams.model_fields)


def check_option_names(options: Mapping[str, Any], allowed: type) -> None:
    """Refuse options that do not exist; nothing checks the names of **options at run time.

    Raises:
        TypeError: naming them, and those that there are.
    """
    names = list(allowed.__annotations__)
    unknown = [name for name in options if name not in names]
    if unknown:
        raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(names)}")


def budget_from(options: Mapping[str, Any]) -> Budget:
    """The budget among options.

    Raises:
        InputError: a number is out of range, or limits are given beside a budget.
    """
    limits = {name: options[name] for name in BudgetKwargs.__annotations__ if name in options}
    budget = options.get("budget")
    if budget is None:
        return Budget(**limits)
    if limits:
        raise InputError(f"a budget was given and {', '.join(limits)} beside it; pass one of them")
    assert isinstance(budget, Budget)
    return budget


def sampling_params_from(options: Mapping[str, Any], defaults: SamplingParams) -> SamplingParams:
    """Temperature, top-k, top-p and guidance among options, and as usual where not.

    Raises:
        InputError: a number is out of range.
    """
    given = {name: to_python(options[name]) for name in _SAMPLING_PARAM_NAMES if name in options}
    if not given:
        return defaults
    return SamplingParams.parse(defaults.model_dump() | given, origin="sample")


def preview_policy_from(
    previews: Sequence[int] | None, previews_per_s: float | None, code_length: int
) -> PreviewPolicy:
    """Where a stream pauses: at those numbers of codes, at a rate, or after every code.

    Raises:
        InputError: a number of codes outside 1..L, a rate that is not positive, or both.
    """
    previews, previews_per_s = to_python(previews), to_python(previews_per_s)
    if previews_per_s is not None:
        if previews is not None:
            raise InputError("previews and previews_per_s were given; pass one of them")
        if not 0 < previews_per_s < math.inf:
            raise InputError(f"previews_per_s={previews_per_s} is no rate; pass a positive number")
        return PreviewPolicy(interval_s=1 / previews_per_s)
    if previews is None:
        return PreviewPolicy(range(1, code_length + 1))
    previews = [check_int("previews", codes) for codes in previews]
    wrong = [codes for codes in previews if not 1 <= codes <= code_length]
    if wrong:
        raise InputError(
            f"previews={wrong[0]} is outside 1..{code_length}, this model's code length; "
            "pass numbers in that range"
        )
    return PreviewPolicy(frozenset(previews))
