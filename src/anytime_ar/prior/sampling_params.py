"""From logits to a code: temperature, top-k and top-p, guidance, and the choice itself."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from anytime_ar.config import Config

NO_UNCONDITIONAL, IS_UNCONDITIONAL = -1, -2
"""Instead of a slot, see `RowSamplingParams.unconditional_slot`."""


Schedule = float | tuple[float, ...]
"""A number, or several for places at equal distances from the first code to the last, with straight
lines between them."""


class SamplingParams(Config):
    """How a code is drawn from the prior's logits."""

    temperature: Schedule = 1.0
    """0..100: above 1 more varied, below 1 more typical; 0 takes the most likely code."""
    top_k: int | None = Field(None, ge=1)
    """Only the k most likely entries, and those that tie with the last of them."""
    top_p: Schedule = 1.0
    """Only the most likely entries that together hold this probability, above 0 and up to 1
    (Holtzman et al. 2020)."""
    guidance: Schedule = 1.0
    """Classifier-free guidance (Ho & Salimans 2022), 0..100: 1 follows the label as trained, above
    that more strongly, 0 ignores it. Anything but 1 doubles the work."""

    @field_validator("temperature", "guidance")
    @classmethod
    def _check_scale(cls, value: Schedule) -> Schedule:
        return _check_range(value, lambda x: 0 <= x <= 100, "0..100")

    @field_validator("top_p")
    @classmethod
    def _check_mass(cls, value: Schedule) -> Schedule:
        return _check_range(value, lambda x: 0 < x <= 1, "above 0 and up to 1")

    @property
    def guided(self) -> bool:
        """Whether labels are followed in another way than as trained."""
        return self.guidance != 1  # several values never equal it

    @property
    def has_schedule(self) -> bool:
        """Whether something depends on the position of a code."""
        return any(isinstance(x, tuple) for x in (self.temperature, self.top_p, self.guidance))

    def at_position(self, position: int, code_length: int) -> SamplingParams:
        """What holds for the code at a position, 0..L-1: the same, with one number for each."""
        return _interpolate(self, position / max(1, code_length - 1)) if self.has_schedule else self


def _check_range(value: Schedule, is_valid: Callable[[float], bool], expected: str) -> Schedule:
    several = value if isinstance(value, tuple) else (value,)
    if not several:
        raise ValueError("an empty list says nothing; pass a number")
    wrong = [x for x in several if not is_valid(x)]
    if wrong:
        raise ValueError(f"must be {expected} (got {wrong[0]})")
    return value


@lru_cache(maxsize=4096)  # every row of a draw asks for the same ones
def _interpolate(params: SamplingParams, share: float) -> SamplingParams:
    values = {
        name: float(np.interp(share * (len(value) - 1), range(len(value)), value))
        for name, value in params
        if isinstance(value, tuple)
    }
    return params.model_copy(update=values)


class RowSamplingParams(ctypes.Structure):
    """`SamplingParams` for one row of a batch, laid out for the kernel."""

    _fields_ = (
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("guidance", ctypes.c_double),
        ("top_k", ctypes.c_int64),
        ("unconditional_slot", ctypes.c_int64),
    )
    temperature: float
    top_p: float
    guidance: float
    top_k: int
    """0: all entries."""
    unconditional_slot: int
    """The slot of the row that is drawn along without the label, for guidance; `IS_UNCONDITIONAL` for that
    row, which takes the code of the guided one; `NO_UNCONDITIONAL` without guidance."""

    @classmethod
    def of(cls, params: SamplingParams, unconditional_slot: int) -> RowSamplingParams:
        """Settings of a row for one code; see `SamplingParams.at_position`."""
        return cls(
            params.temperature, params.top_p, params.guidance, params.top_k or 0, unconditional_slot
        )


def apply_guidance(with_label: Tensor, without_label: Tensor, scale: float) -> Tensor:
    """Move logits float [B, V] away from those drawn without the label."""
    return without_label + scale * (with_label - without_label)


def sample_code(
    logits: Tensor,
    noise: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """Draw one code per row by inverting the cumulative distribution.

    Args:
        logits: float [B, V].
        noise: float64 [B] in [0, 1), one number per row.
        temperature, top_k, top_p: see `SamplingParams`.

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
    # Noise is scaled by the total, which rounding leaves just beside 1, so that the index found is
    # always one of 0..V-1.
    threshold = noise[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]


def sample_code_by_row(
    logits: Tensor, noise: Tensor, params: ctypes.Array[RowSamplingParams]
) -> Tensor:
    """Draw one code per row, each with settings of its own.

    Args:
        logits: float [B, V].
        noise: float64 [B] in [0, 1).
        params: of B rows or more.

    Returns:
        int64 [B] in 0..V-1.
    """
    groups = _group_rows(bytes(memoryview(params)[: len(logits)]), logits.device)
    if len(groups) == 1 and groups[0].unconditional_slots is None:
        return groups[0].sample(logits, noise)
    chosen = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    for group in groups:
        scores = logits[group.slots]
        if group.unconditional_slots is not None:
            scores = apply_guidance(
                scores, logits[group.unconditional_slots], group.params.guidance
            )
        codes = group.sample(scores, noise[group.slots])
        chosen[group.slots] = codes
        if group.unconditional_slots is not None:
            chosen[group.unconditional_slots] = codes
    return chosen


@dataclass(frozen=True)
class _ParamGroup:
    """Rows with the same settings, by slot."""

    params: RowSamplingParams
    slots: Tensor
    unconditional_slots: Tensor | None
    """The slots that are drawn along, for guidance."""

    def sample(self, logits: Tensor, noise: Tensor) -> Tensor:
        how = self.params
        return sample_code(
            logits, noise, temperature=how.temperature, top_k=how.top_k, top_p=how.top_p
        )


@lru_cache(maxsize=64)  # they change only where rows join or leave
def _group_rows(settings: bytes, device: torch.device) -> tuple[_ParamGroup, ...]:
    """Rows by settings, from the bytes of their `RowSamplingParams`s."""
    count = len(settings) // ctypes.sizeof(RowSamplingParams)
    members: dict[tuple[float, ...], list[int]] = {}
    choices = (RowSamplingParams * count).from_buffer_copy(settings)
    for slot, how in enumerate(choices):
        if how.unconditional_slot != IS_UNCONDITIONAL:
            guided = how.unconditional_slot != NO_UNCONDITIONAL
            key = (how.temperature, how.top_k, how.top_p, how.guidance, guided)
            members.setdefault(key, []).append(slot)
    groups = []
    for slots in members.values():
        shadows = [
            choices[slot].unconditional_slot
            for slot in slots
            if choices[slot].unconditional_slot != NO_UNCONDITIONAL
        ]
        groups.append(
            _ParamGroup(
                choices[slots[0]],
                torch.tensor(slots, dtype=torch.int64, device=device),
                torch.tensor(shadows, dtype=torch.int64, device=device) if shadows else None,
            )
        )
    return tuple(groups)


def _nucleus(probabilities: Tensor, mass: float) -> Tensor:
    """Zero all but the fewest most likely entries that hold `mass`: [B, V] -> [B, V]."""
    ordered, indices = probabilities.sort(stable=True, dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered  # probability of the entries ahead
    return torch.zeros_like(probabilities).scatter(
        -1, indices, ordered.masked_fill(before >= mass, 0.0)
    )
