"""The plan of a call: rows, labels, random numbers and sampling parameters, checked.

A plan determines the codes for every number of codes. A state stores it, also on disk, so that the
samples can be refined later.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.bundle.card import Card
from anytime_ar.codes import Vocabulary, as_codes, check_codes
from anytime_ar.conditions import Conditions, encode_conditions
from anytime_ar.config import check_int, to_python
from anytime_ar.errors import InputError
from anytime_ar.prior import SamplingParams

Label = int | str
"""A class, by index or name."""
MAX_SAMPLES = 2**24
"""Largest number of samples of one call."""
MAX_CANDIDATES = 64
"""Largest number of beginnings of a sample."""
_MAX_INDEX = 2**63
"""Number of samples of a seed, as files of states store their indices."""


Scorer = Callable[[Tensor, Tensor], Tensor]
"""Scores beginnings: codes int64 [B, m] and decoded previews float32 [B, *sample_shape] -> [B],
higher for better ones. The score of each has to depend on its own codes and preview alone."""


@dataclass(frozen=True)
class Candidates:
    """Several beginnings of each sample, of which the best is continued."""

    count: int
    """Number of beginnings of each sample, c >= 2."""
    codes: int
    """Number of codes of a beginning, m, 1..L."""
    noise: Tensor
    """Random numbers of all beginnings but the first, float64 [n, c - 1, m] in [0, 1)."""
    scorer: Scorer | None = None
    """Scores beginnings; None: by their probability under the prior."""


@dataclass(frozen=True)
class Plan:
    """Samples first..first + n - 1 of a seed, with all that their codes depend on."""

    seed: int
    """Random seed of the samples, 0..2**64-1."""
    first: int
    """Index of the first sample within the seed."""
    labels: Tensor | None
    """Labels int64 [n] on the CPU; None for a model without labels."""
    sampling_params: SamplingParams
    """Temperature, top-k, top-p and guidance of all rows."""
    noise: Tensor
    """Uniform random numbers float64 [n, L] in [0, 1), one for each code."""
    fixed_codes: Tensor | None = None
    """Codes that are given, int64 [n, L] on the CPU, with -1 for codes to draw; None: all codes are
    drawn."""
    conditions: Conditions | None = None
    """n rows on the CPU for each condition of the model; None for a model without conditions."""
    candidates: Candidates | None = None
    """Beginnings to choose among; None: each sample has one."""

    @classmethod
    def create(
        cls,
        card: Card,
        code_length: int,
        n: int,
        *,
        first: int = 0,
        seed: int | None,
        label: Label | Sequence[Label] | None,
        sampling_params: SamplingParams,
        fixed_codes: Any = None,
        conditions: Mapping[str, Any] | None = None,
        candidates: int = 1,
        candidate_codes: int | None = None,
        candidate_scorer: Scorer | None = None,
        vocabulary: Vocabulary,
    ) -> Plan:
        """Resolve labels and random numbers of samples first..first + n - 1 of a seed.

        Args:
            card: card of the model, with its labels.
            code_length: L, the number of codes of a whole sample.
            n: number of samples.
            first: index of the first sample within the seed.
            seed: random seed, 0..2**64-1; None: a fresh one.
            label: one class for all samples or n classes, by index or name; None: random classes at
                the frequencies of the training split.
            sampling_params: temperature, top-k, top-p and guidance.
            fixed_codes: codes that are given, integers [k] for all samples, [1, k] or [n, k] with
                k <= L; -1 and codes from k on are drawn. None: all codes are drawn.
            conditions: values of conditions by name, one for all samples or n values; what is left
                out is not given.
            candidates: number of beginnings of each sample, of which the best is continued.
            candidate_codes: number of codes of a beginning; None: see `default_candidate_codes`.
            candidate_scorer: scores beginnings; None: by their probability under the prior.
            vocabulary: V, the number of values of a code, one for all positions or one for each.

        Raises:
            InputError: a number is out of range, or a label, condition or value is unknown.
        """
        n, first = check_int("n", n), check_int("first", first)
        if n < 1:
            raise InputError(f"cannot draw {n} samples; pass n >= 1")
        if first < 0:
            raise InputError(f"first={first} is no sample's number; pass one from 0")
        if n > MAX_SAMPLES:
            raise InputError(
                f"cannot draw {n} samples in one call, of which the limit is {MAX_SAMPLES}; draw "
                "them in parts, each with its own `first`"
            )
        if first + n > _MAX_INDEX:
            raise InputError(
                f"samples {first}..{first + n - 1} exceed the limit of a seed, "
                f"{_MAX_INDEX - 1}; pass a smaller `first`"
            )
        names, known = card.data.labels, card.data.conditions
        card.data.check_guidance(sampling_params)
        fixed = resolve_fixed_codes(fixed_codes, n, code_length, vocabulary)
        seed = secrets.randbits(64) if seed is None else check_int("seed", seed)
        beginning = _beginning(candidates, candidate_codes, candidate_scorer, code_length, fixed)
        more = 0 if beginning is None else (beginning[0] - 1) * beginning[1]
        noise = uniform_noise(seed, range(first, first + n), 1 + code_length + more).numpy()
        unlabelled = names is None and label is None
        labels = None if unlabelled else _resolve_labels(card, label, noise[:, 0])
        given = encode_conditions(known, conditions or {}, n)
        numbers = torch.from_numpy(noise[:, 1:])
        chosen = None
        if beginning is not None:
            others = numbers[:, code_length:].unflatten(1, (beginning[0] - 1, beginning[1]))
            numbers = numbers[:, :code_length].clone()  # states and sessions hold no others
            chosen = Candidates(*beginning, others, candidate_scorer)
        return cls(
            seed,
            first,
            labels,
            sampling_params,
            numbers[:, :code_length],
            fixed,
            given if known else None,
            chosen,
        )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.noise)

    @property
    def num_slots(self) -> int:
        """Number of slots of a batch: each guidance of a sample needs one more."""
        beginnings = 1 if self.candidates is None else self.candidates.count
        conditional = self.labels is not None or bool(self.conditions)
        guidance = len(self.sampling_params.guidance_scales) if conditional else 0
        return len(self) * beginnings * (1 + guidance)

    def slice(self, start: int, stop: int) -> Plan:
        """Return the plan of samples start..stop - 1 of this plan."""
        labels = None if self.labels is None else self.labels[start:stop]
        fixed = None if self.fixed_codes is None else self.fixed_codes[start:stop]
        conditions = None
        if self.conditions is not None:
            conditions = {name: rows[start:stop] for name, rows in self.conditions.items()}
        several = self.candidates
        if several is not None:
            several = replace(several, noise=several.noise[start:stop])
        return Plan(
            self.seed,
            self.first + start,
            labels,
            self.sampling_params,
            self.noise[start:stop],
            fixed,
            conditions,
            several,
        )

    def without_candidates(self) -> Plan:
        """Return the plan of samples whose beginnings are chosen."""
        return self if self.candidates is None else replace(self, candidates=None)

    def beginnings(self) -> Plan:
        """Return the plan of all beginnings, those of the first sample first."""
        several = self.candidates
        assert several is not None
        noise = self.noise[:, None].repeat(1, several.count, 1)  # [n, c, L]
        noise[:, 1:, : several.codes] = several.noise
        labels, fixed = (
            None if rows is None else rows.repeat_interleave(several.count, 0)
            for rows in (self.labels, self.fixed_codes)
        )
        conditions = None
        if self.conditions is not None:
            conditions = {
                name: rows.repeat_interleave(several.count, 0)
                for name, rows in self.conditions.items()
            }
        return Plan(
            self.seed,
            self.first,
            labels,
            self.sampling_params,
            noise.flatten(0, 1),
            fixed,
            conditions,
        )

    def leading_codes(self, limit: int) -> Tensor | None:
        """Return the codes before the first position at which any sample draws its code.

        Args:
            limit: largest number of codes to return, at least 1.

        Returns:
            int64 [n, k] with 1 <= k <= limit; None: a first code is drawn.
        """
        if self.fixed_codes is None:
            return None
        given = (self.fixed_codes >= 0).all(0)
        count = min(limit, int(given.cumprod(0).sum()))
        return self.fixed_codes[:, :count] if count else None


def default_candidate_codes(code_length: int) -> int:
    """Return the number of codes of a beginning, of L codes of a whole sample."""
    return max(1, code_length // 4)


def _beginning(
    candidates: int,
    candidate_codes: int | None,
    scorer: Scorer | None,
    code_length: int,
    fixed_codes: Tensor | None,
) -> tuple[int, int] | None:
    """Return number and codes of the beginnings of each sample; None: there is one.

    Raises:
        InputError: a number is out of range, or there is nothing to choose.
    """
    count = check_int("candidates", candidates)
    if not 1 <= count <= MAX_CANDIDATES:
        raise InputError(f"candidates={count} is outside 1..{MAX_CANDIDATES}; pass such a number")
    if count == 1:
        if candidate_codes is not None or scorer is not None:
            raise InputError("there is one candidate to choose among; pass candidates=2 or more")
        return None
    if candidate_codes is None:
        candidate_codes = default_candidate_codes(code_length)
    codes = check_int("candidate_codes", candidate_codes)
    if not 1 <= codes <= code_length:
        raise InputError(
            f"candidate_codes={codes} is outside 1..{code_length}, this model's code length; "
            "pass a number in that range"
        )
    if fixed_codes is not None and (fixed_codes[:, :codes] >= 0).all(1).any():
        raise InputError(
            f"candidates={count}, but a sample has all {codes} codes of its beginning fixed; raise "
            "candidate_codes, or drop candidates"
        )
    return count, codes


def resolve_fixed_codes(
    fixed_codes: Any, n: int, code_length: int, vocabulary: Vocabulary
) -> Tensor | None:
    """Return the codes that are given, int64 [n, L] on the CPU with -1 for codes to draw.

    Args:
        fixed_codes: see `Plan.create`.
        n: number of samples.
        code_length: L, the number of codes of a whole sample.
        vocabulary: V, the number of values of a code, one for all positions or one for each.

    Returns:
        The codes; None: none are given.

    Raises:
        InputError: a code is not in -1..V-1, or there are more than L codes or not 1 or n rows.
    """
    if fixed_codes is None:
        return None
    codes = as_codes(fixed_codes)
    if codes.ndim == 1:
        codes = codes[None]
    try:
        drawn = codes == -1
        check_codes(codes.masked_fill(drawn, 0), code_length=code_length, vocabulary=vocabulary)
    except InputError as error:
        raise InputError(f"fixed_codes: {error}; pass -1 for a code to draw") from error
    if len(codes) not in (1, n):
        raise InputError(
            f"fixed_codes has {len(codes)} rows for {n} samples; pass one row for all, or {n}"
        )
    if drawn.all():
        return None
    return F.pad(codes.cpu(), (0, code_length - codes.shape[1]), value=-1).expand(n, -1)


def _resolve_labels(card: Card, label: Label | Sequence[Label] | None, noise: np.ndarray) -> Tensor:
    """Return labels int64 [n]: those given, or random ones, from `noise` [n] in [0, 1)."""
    if label is None:
        assert card.data.label_frequencies is not None
        cumulative = _cumulative_frequencies(card.data.label_frequencies)
        return torch.from_numpy(cumulative.searchsorted(noise * cumulative[-1], "right"))
    return label_indices(card, label, len(noise))


def label_indices(card: Card, label: Label | Sequence[Label], n: int) -> Tensor:
    """Return labels int64 [n] by index or name, one for all samples or one for each.

    Args:
        card: card of the model, with its labels.
        label: one class or n classes.
        n: number of samples.

    Raises:
        InputError: the model has no labels, there are not n of them, or one is unknown.
    """
    names = card.data.labels
    if names is None:
        raise InputError(f"label {label!r} was given, but this model has no labels; drop it")
    given: Any = to_python(label)
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes)
    labels = list(given) if several else [given] * n
    if len(labels) != n:
        raise InputError(f"{len(labels)} labels were given for {n} samples; pass one, or {n}")
    indices = [_label_index(one, names) for one in labels]
    return torch.tensor(indices, dtype=torch.int64, device="cpu")


@lru_cache
def _cumulative_frequencies(frequencies: tuple[float, ...]) -> np.ndarray:
    return np.cumsum(frequencies)


def _label_index(label: Any, names: tuple[str, ...]) -> int:
    label = to_python(label)
    if not isinstance(label, int | str) or isinstance(label, bool):
        raise InputError(
            f"label {label!r} is a {type(label).__name__}; pass a whole number, as an int, or a "
            "name"
        )
    if isinstance(label, str) and label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise InputError(
        f"label {label!r} is unknown; pass a number in 0..{len(names) - 1}, or one of "
        f"{', '.join(names)}"
    )


class _PhiloxGenerator(threading.local):
    """One generator per thread, since creating one takes longer than filling a row."""

    def __init__(self) -> None:
        """Create the generator and remember its initial state."""
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._start = self._bits.state
        self._key = self._start["state"]["key"]

    def fill_uniform(self, out: np.ndarray, seed: int, sample_index: int) -> None:
        """Fill `out` with the first numbers of a generator with key [seed, sample_index]."""
        self._key[0], self._key[1] = seed, sample_index
        self._bits.state = self._start
        self._generator.random(out=out)


_philox = _PhiloxGenerator()


def uniform_noise(seed: int, sample_indices: range, count: int) -> Tensor:
    """Return uniform numbers in [0, 1), one row per sample: float64 [n, count].

    Sample i of seed s takes its numbers from a counter-based generator (Philox, Salmon et al. 2011)
    with key (s, i). The numbers are the same alone, in every batch, and for every number of codes.

    Args:
        seed: random seed, 0..2**64-1.
        sample_indices: indices of the n samples within the seed.
        count: numbers per sample; a larger count does not change the first ones.

    Raises:
        InputError: the seed is out of range.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed {seed} is outside 0..2**64-1; pass a non-negative integer")
    noise = np.empty((len(sample_indices), count))
    for line, row in zip(noise, sample_indices, strict=True):
        _philox.fill_uniform(line, seed, row)
    return torch.from_numpy(noise)
