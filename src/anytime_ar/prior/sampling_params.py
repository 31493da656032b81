"""Sampling parameters, and sampling of a code from logits."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BeforeValidator, Field, PlainSerializer, field_validator
from torch import Tensor

from anytime_ar.config import Config

NO_UNCONDITIONAL, IS_UNCONDITIONAL = -1, -2
"""Values of `RowSamplingParams.unconditional_slot` that are no slot."""


Schedule = float | tuple[float, ...]
"""A number, or several at equal distances from the first code to the last, with straight lines
between them."""


def _pairs(values: Any) -> Any:
    """Return the pairs of a mapping, in the order of their names, so that they can be hashed."""
    return tuple(sorted(values.items())) if isinstance(values, Mapping) else values


class SamplingParams(Config):
    """How codes are sampled from the prior's logits."""

    temperature: Schedule = 1.0
    """Divisor of the logits, in 0..100: above 1 more varied, below 1 more typical; 0 takes the
    most likely code."""
    top_k: int | None = Field(None, ge=1)
    """Sample only among the k most likely codes, and those that tie with the last of them."""
    top_p: Schedule = 1.0
    """Sample only among the most likely codes that together have this probability, above 0 and
    up to 1 (Holtzman et al. 2020)."""
    guidance: Schedule = 1.0
    """Scale of classifier-free guidance (Ho & Salimans 2022), in 0..100: 1 follows the label and
    the conditions as trained, above 1 more strongly, 0 ignores them. Any value but 1 doubles the
    computation."""
    condition_guidance: Annotated[
        tuple[tuple[str, Schedule], ...], BeforeValidator(_pairs), PlainSerializer(dict)
    ] = ()
    """Scale of guidance of single conditions by name, in 0..100, where `label` is the class label:
    above 1, samples follow this condition more strongly, given the others. Each computes one more
    row, and adds to `guidance`."""

    @field_validator("condition_guidance")
    @classmethod
    def _check_scales(
        cls, pairs: tuple[tuple[str, Schedule], ...]
    ) -> tuple[tuple[str, Schedule], ...]:
        """Check that every number is in 0..100."""
        for _, value in pairs:
            _check_range(value, lambda x: 0 <= x <= 100, "0..100")
        return pairs

    @field_validator("temperature", "guidance")
    @classmethod
    def _check_scale(cls, value: Schedule) -> Schedule:
        """Check that every number is in 0..100."""
        return _check_range(value, lambda x: 0 <= x <= 100, "0..100")

    @field_validator("top_p")
    @classmethod
    def _check_mass(cls, value: Schedule) -> Schedule:
        """Check that every number is above 0 and up to 1."""
        return _check_range(value, lambda x: 0 < x <= 1, "above 0 and up to 1")

    @property
    def guided(self) -> bool:
        """Return whether some guidance is other than 1."""
        return bool(self.guidance_scales)

    @property
    def guidance_scales(self) -> tuple[tuple[str | None, Schedule], ...]:
        """Return the condition and the scale of each unconditional row; None: all conditions."""
        scales = ((None, self.guidance), *self.condition_guidance)
        return tuple(pair for pair in scales if pair[1] != 1)  # a schedule never equals it

    def guidance_of(self, condition: str | None) -> Schedule:
        """Return the scale of guidance of one condition; None: of all conditions."""
        return self.guidance if condition is None else dict(self.condition_guidance)[condition]

    @property
    def has_schedule(self) -> bool:
        """Return whether a parameter depends on the position of a code."""
        scales = (scale for _, scale in self.guidance_scales)
        return any(isinstance(x, tuple) for x in (self.temperature, self.top_p, *scales))

    def at_position(self, position: int, code_length: int) -> SamplingParams:
        """Return the parameters at one position, with a number in place of each schedule.

        Args:
            position: 0..L-1.
            code_length: L.
        """
        return _interpolate(self, position / max(1, code_length - 1)) if self.has_schedule else self


def _check_range(value: Schedule, is_valid: Callable[[float], bool], expected: str) -> Schedule:
    """Return a number or schedule whose every number is valid.

    Raises:
        ValueError: a schedule is empty, or a number is not valid.
    """
    several = value if isinstance(value, tuple) else (value,)
    if not several:
        raise ValueError("an empty list says nothing; pass a number")
    wrong = [x for x in several if not is_valid(x)]
    if wrong:
        raise ValueError(f"must be {expected} (got {wrong[0]})")
    return value


@lru_cache(maxsize=4096)  # all rows of a batch ask for the same ones
def _interpolate(params: SamplingParams, share: float) -> SamplingParams:
    """Return the parameters at a fraction, 0..1, of the sequence."""

    def at(value: Schedule) -> float:
        if not isinstance(value, tuple):
            return value
        return float(np.interp(share * (len(value) - 1), range(len(value)), value))

    values = {name: at(getattr(params, name)) for name in ("temperature", "top_p", "guidance")}
    scales = tuple((name, at(scale)) for name, scale in params.condition_guidance)
    return params.model_copy(update=values | {"condition_guidance": scales})


class RowSamplingParams(ctypes.Structure):
    """The `SamplingParams` of one row at one position, in the kernel's struct `Choice`."""

    _fields_ = (
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("guidance", ctypes.c_double),
        ("top_k", ctypes.c_int64),
        ("unconditional_slot", ctypes.c_int64),
        ("next_slot", ctypes.c_int64),
    )
    temperature: float
    """Divisor of the logits; 0 takes the most likely code."""
    top_p: float
    """Probability of the codes to sample among."""
    guidance: float
    """Of an unconditional row, the scale of moving away from it."""
    top_k: int
    """Number of codes to sample among; 0: all codes."""
    unconditional_slot: int
    """Slot of the first unconditional row of classifier-free guidance. `IS_UNCONDITIONAL`: this is
    such a row, and gets the code of the guided one. `NO_UNCONDITIONAL`: no guidance."""
    next_slot: int
    """Of an unconditional row, the slot of the next one of the same row, or `NO_UNCONDITIONAL`."""

    @classmethod
    def of(cls, params: SamplingParams, guidance: float = 1.0) -> RowSamplingParams:
        """Build the parameters of a row at one position; see `SamplingParams.at_position`."""
        return cls(
            params.temperature,
            params.top_p,
            guidance,
            params.top_k or 0,
            NO_UNCONDITIONAL,
            NO_UNCONDITIONAL,
        )


def link_rows(params: ctypes.Array[RowSamplingParams], slots: Sequence[int]) -> None:
    """Write which unconditional rows belong to a row.

    Args:
        params: parameters of all rows.
        slots: slot of the row, and those of its unconditional rows.
    """
    row, *unconditional = slots
    params[row].unconditional_slot = unconditional[0] if unconditional else NO_UNCONDITIONAL
    following = NO_UNCONDITIONAL
    for slot in reversed(unconditional):
        params[slot].unconditional_slot, params[slot].next_slot = IS_UNCONDITIONAL, following
        following = slot


def apply_guidance(with_label: Tensor, without_label: Tensor, scale: float) -> Tensor:
    """Move logits away from the unconditional ones (classifier-free guidance).

    Args:
        with_label: float [B, V].
        without_label: float [B, V].
        scale: 1 returns `with_label`, 0 returns `without_label`.

    Returns:
        float [B, V].
    """
    return without_label + scale * (with_label - without_label)


def sample_code(
    logits: Tensor,
    noise: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """Sample one code per row by inverting the cumulative distribution.

    Args:
        logits: float [B, V].
        noise: float64 [B] in [0, 1), one number per row.
        temperature: see `SamplingParams.temperature`.
        top_k: see `SamplingParams.top_k`.
        top_p: see `SamplingParams.top_p`.

    Returns:
        int64 [B] in 0..V-1.
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.double()
    if temperature != 1:
        logits = logits / temperature
    if top_k and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p < 1:
        probabilities = _nucleus(probabilities, top_p)
    cumulative = probabilities.cumsum(-1)  # [B, V]
    # Rounding leaves the total near 1, not at 1. Noise is scaled by it, so that the index is always
    # in 0..V-1.
    threshold = noise[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]


def sample_code_by_row(
    logits: Tensor,
    noise: Tensor,
    params: ctypes.Array[RowSamplingParams],
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """Sample one code per row, with parameters of each row.

    Args:
        logits: float [B, V].
        noise: float64 [B] in [0, 1).
        params: parameters of B rows or more.
        sizes: number of values of each row's code, B of them, up to V; None: V of all.

    Returns:
        int64 [B] in 0..V-1.
    """
    if sizes is not None:
        device, kind = logits.device, torch.int64
        codes = torch.arange(logits.shape[1], dtype=kind, device=device)
        impossible = codes >= torch.tensor(sizes, dtype=kind, device=device)[:, None]
        # Not -inf, of which guidance takes the difference.
        logits = logits.masked_fill(impossible, torch.finfo(logits.dtype).min)
    groups = _group_rows(bytes(memoryview(params)[: len(logits)]), logits.device)
    if len(groups) == 1 and not groups[0].unconditional:
        return groups[0].sample(logits, noise)
    sampled = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    for group in groups:
        with_conditions = scores = logits[group.slots]
        for number, (slots, scale) in enumerate(group.unconditional):
            if number == 0:
                scores = apply_guidance(with_conditions, logits[slots], scale)
            else:
                scores = scores + (scale - 1) * (with_conditions - logits[slots])
        codes = group.sample(scores, noise[group.slots])
        sampled[group.slots] = codes
        for slots, _ in group.unconditional:
            sampled[slots] = codes
    return sampled


@dataclass(frozen=True)
class _ParamGroup:
    """The rows with the same sampling parameters, by slot."""

    params: RowSamplingParams
    """Sampling parameters of these rows."""
    slots: Tensor
    """Slots of these rows, int64 [n]."""
    unconditional: list[tuple[Tensor, float]]
    """Slots of unconditional rows, int64 [n], and the scale of moving away from them."""

    def sample(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Sample one code for each row of the group."""
        params = self.params
        return sample_code(
            logits, noise, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p
        )


@lru_cache(maxsize=64)  # groups change only when rows join or leave
def _group_rows(settings: bytes, device: torch.device) -> tuple[_ParamGroup, ...]:
    """Group rows by sampling parameters, from the bytes of their `RowSamplingParams`."""
    count = len(settings) // ctypes.sizeof(RowSamplingParams)
    members: dict[tuple[object, ...], list[list[int]]] = {}
    params = (RowSamplingParams * count).from_buffer_copy(settings)
    for slot, row in enumerate(params):
        if row.unconditional_slot == IS_UNCONDITIONAL:
            continue
        slots, following = [slot], row.unconditional_slot
        while following != NO_UNCONDITIONAL:
            slots.append(following)
            following = params[following].next_slot
        scales = tuple(params[one].guidance for one in slots[1:])
        members.setdefault((row.temperature, row.top_k, row.top_p, scales), []).append(slots)
    groups = []
    for rows in members.values():
        slots, *others = torch.tensor(rows, dtype=torch.int64, device=device).T.contiguous()
        guidance = [params[slot].guidance for slot in rows[0][1:]]
        groups.append(
            _ParamGroup(params[rows[0][0]], slots, list(zip(others, guidance, strict=True)))
        )
    return tuple(groups)


def _nucleus(probabilities: Tensor, mass: float) -> Tensor:
    """Zero all probabilities but the fewest, largest ones with sum `mass`: [B, V] -> [B, V]."""
    ordered, indices = probabilities.sort(stable=True, dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered  # probability of more likely codes
    return torch.zeros_like(probabilities).scatter(
        -1, indices, ordered.masked_fill(before >= mass, 0.0)
    )
