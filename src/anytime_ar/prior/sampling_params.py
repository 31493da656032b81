"""Sampling parameters, and sampling of a code from logits."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from anytime_ar.config import Config

NO_UNCONDITIONAL, IS_UNCONDITIONAL = -1, -2
"""Values of `RowSamplingParams.unconditional_slot` that are no slot."""


Schedule = float | tuple[float, ...]
"""A number, or several at equal distances from the first code to the last, with straight lines
between them."""


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
    """Scale of classifier-free guidance (Ho & Salimans 2022), in 0..100: 1 follows the label as
    trained, above 1 more strongly, 0 ignores it. Any value but 1 doubles the computation."""

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
        """Return whether the guidance is other than 1."""
        return self.guidance != 1  # a schedule never equals it

    @property
    def has_schedule(self) -> bool:
        """Return whether a parameter depends on the position of a code."""
        return any(isinstance(x, tuple) for x in (self.temperature, self.top_p, self.guidance))

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
    values = {
        name: float(np.interp(share * (len(value) - 1), range(len(value)), value))
        for name, value in params
        if isinstance(value, tuple)
    }
    return params.model_copy(update=values)


class RowSamplingParams(ctypes.Structure):
    """The `SamplingParams` of one row at one position, in the kernel's struct `Choice`."""

    _fields_ = (
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("guidance", ctypes.c_double),
        ("top_k", ctypes.c_int64),
        ("unconditional_slot", ctypes.c_int64),
    )
    temperature: float
    """Divisor of the logits; 0 takes the most likely code."""
    top_p: float
    """Probability of the codes to sample among."""
    guidance: float
    """Scale of classifier-free guidance; 1 follows the label as trained."""
    top_k: int
    """Number of codes to sample among; 0: all codes."""
    unconditional_slot: int
    """Slot of the unconditional row of classifier-free guidance. `IS_UNCONDITIONAL`: this is
    such a row, and gets the code of the guided one. `NO_UNCONDITIONAL`: no guidance."""

    @classmethod
    def of(cls, params: SamplingParams, unconditional_slot: int) -> RowSamplingParams:
        """Build the parameters of a row at one position; see `SamplingParams.at_position`."""
        return cls(
            params.temperature, params.top_p, params.guidance, params.top_k or 0, unconditional_slot
        )


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
    if len(groups) == 1 and groups[0].unconditional_slots is None:
        return groups[0].sample(logits, noise)
    sampled = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    for group in groups:
        scores = logits[group.slots]
        if group.unconditional_slots is not None:
            scores = apply_guidance(
                scores, logits[group.unconditional_slots], group.params.guidance
            )
        codes = group.sample(scores, noise[group.slots])
        sampled[group.slots] = codes
        if group.unconditional_slots is not None:
            sampled[group.unconditional_slots] = codes
    return sampled


@dataclass(frozen=True)
class _ParamGroup:
    """The rows with the same sampling parameters, by slot."""

    params: RowSamplingParams
    """Sampling parameters of these rows."""
    slots: Tensor
    """Slots of these rows, int64 [n]."""
    unconditional_slots: Tensor | None
    """Slots of the unconditional rows of classifier-free guidance, int64 [n]; None: no guidance."""

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
    members: dict[tuple[float, ...], list[int]] = {}
    row_params = (RowSamplingParams * count).from_buffer_copy(settings)
    for slot, row in enumerate(row_params):
        if row.unconditional_slot != IS_UNCONDITIONAL:
            guided = row.unconditional_slot != NO_UNCONDITIONAL
            key = (row.temperature, row.top_k, row.top_p, row.guidance, guided)
            members.setdefault(key, []).append(slot)
    groups = []
    for slots in members.values():
        unconditional = [
            row_params[slot].unconditional_slot
            for slot in slots
            if row_params[slot].unconditional_slot != NO_UNCONDITIONAL
        ]
        groups.append(
            _ParamGroup(
                row_params[slots[0]],
                torch.tensor(slots, dtype=torch.int64, device=device),
                torch.tensor(unconditional, dtype=torch.int64, device=device)
                if unconditional
                else None,
            )
        )
    return tuple(groups)


def _nucleus(probabilities: Tensor, mass: float) -> Tensor:
    """Zero all probabilities but the fewest, largest ones with sum `mass`: [B, V] -> [B, V]."""
    ordered, indices = probabilities.sort(stable=True, dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered  # probability of more likely codes
    return torch.zeros_like(probabilities).scatter(
        -1, indices, ordered.masked_fill(before >= mass, 0.0)
    )
