"""Keyword arguments of sampling, converted to a budget, sampling parameters and previews."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from numpy.typing import NDArray
from torch import Tensor

from anytime_ar.config import check_int, to_python
from anytime_ar.errors import InputError
from anytime_ar.prior import SamplingParams
from anytime_ar.sampling.budget import Budget, CancelFlag
from anytime_ar.sampling.loop import PreviewPolicy
from anytime_ar.sampling.plan import Label, Scorer

CodesLike = Tensor | NDArray[Any] | Sequence[Sequence[int]]
"""Codes int64 [B, k], as a tensor, an array or nested sequences."""
Schedule = float | Sequence[float]
"""A number for all codes, or numbers at equal distances from the first code to the last, with
linear interpolation between them."""


class BudgetKwargs(TypedDict, total=False):
    """Keyword arguments that limit how many codes are drawn; see `Budget`.

    The first limit to be reached ends sampling.
    """

    codes: int | None
    """Number of codes per sample, k, 1..L; None: all of them. The cost is proportional to it."""
    deadline_s: float | None
    """Seconds from the call within which the samples are returned, with as many codes as fit."""
    quality: float | None
    """Share of the quality at full length, (0, 1]: the measured curve gives the fewest codes that
    reach it."""
    cancel: CancelFlag | None
    """Flag that ends sampling within one code once it is set, such as a `threading.Event`."""
    min_codes: int
    """Minimum number of codes, 1..L, whatever the other limits say. Default 1."""


class SampleKwargs(BudgetKwargs, total=False):
    """Keyword arguments of `AnytimeModel.sample`, `generate` and `stream`."""

    budget: Budget | None
    """All limits in one `Budget`, instead of the keyword arguments above."""
    label: Label | Sequence[Label] | None
    """One class for all samples or n classes, by index or name; None: random classes at the
    frequencies of the training split."""
    conditions: Mapping[str, Any] | None
    """Values of the model's other conditions by name, one for all samples or a list of n values: a
    class, a vector, a text or codes. What is left out is not given."""
    seed: int | None
    """Random seed, 0..2**64-1; None: a fresh one. Sample i of a seed is the same for every n, and
    its codes are a prefix for every budget."""
    first: int
    """Index of the first sample within the seed, from 0 (default): `n=2, first=5` gives samples 5
    and 6."""
    temperature: Schedule
    """Divisor of the logits: above 1 for more variety, below 1 for more typical samples; 0 takes
    the most likely code. The defaults of this and of the next three are the bundle's,
    `bundle.card.sampling_params`: 1, None, 1 and 1 for most models."""
    top_k: int | None
    """Number of most likely codebook entries to sample from; None: all."""
    top_p: Schedule
    """Probability, (0, 1]: sample from the most likely codebook entries that together hold it."""
    guidance: Schedule
    """Scale of classifier-free guidance: above 1, samples follow the label and the conditions more
    strongly."""
    condition_guidance: Mapping[str, Schedule]
    """Scale of guidance of single conditions by name, given the others; `label` is the label."""
    fixed_codes: CodesLike | Sequence[int] | None
    """Codes that are given rather than drawn: integers [n, k], or [k] for all samples, with k <= L.
    -1 marks codes to draw, as are all from k on. The others keep their random numbers."""
    candidates: int
    """Number of beginnings that are drawn of each sample, 1..64 (default 1); the best of them is
    continued, within the same budget."""
    candidate_codes: int | None
    """Number of codes of a beginning, 1..L; None: a quarter of L. No sample has fewer codes."""
    candidate_scorer: Scorer | None
    """Scores beginnings, from their codes int64 [B, m] and previews float32 [B, *sample_shape] to
    [B], higher for better ones. None: by their probability under the prior, without guidance."""


_SAMPLING_PARAM_NAMES = tuple(SamplingParams.model_fields)


def check_option_names(options: Mapping[str, Any], allowed: type) -> None:
    """Raise an error for options that do not exist, since Python does not check **options.

    Args:
        options: keyword arguments of a call.
        allowed: the TypedDict whose names are valid.

    Raises:
        TypeError: an option does not exist; the message lists the valid ones.
    """
    names = list(allowed.__annotations__)
    unknown = [name for name in options if name not in names]
    if unknown:
        raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(names)}")


def budget_from(options: Mapping[str, Any]) -> Budget:
    """Return the budget that the options contain.

    Args:
        options: keyword arguments, see `SampleKwargs`; other names are ignored.

    Raises:
        InputError: a number is out of range, or the options contain both a budget and limits.
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
    """Return temperature, top-k, top-p and guidance of the options, completed by defaults.

    Args:
        options: keyword arguments, see `SampleKwargs`; other names are ignored.
        defaults: values of the parameters that the options do not contain.

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
    """Return when a stream yields previews: at numbers of codes, at a rate, or after every code.

    Args:
        previews: numbers of codes, 1..L; None: after every code, unless a rate is given.
        previews_per_s: maximum rate, in previews per second.
        code_length: L, the number of codes of a whole sample.

    Raises:
        InputError: a number of codes is outside 1..L, the rate is not positive, or both are given.
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
