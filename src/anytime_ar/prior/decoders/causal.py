"""Decode any causal prior, with its own operations and cache."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from anytime_ar.prior.causal import CausalPrior
from anytime_ar.prior.decoders.base import DecodeState, PriorDecoder, int64_tensor
from anytime_ar.prior.kv_cache import KVCache
from anytime_ar.runtime.torch_modes import default_torch_modes


class CausalPriorDecoder(PriorDecoder[DecodeState[Any]]):
    """A `PriorDecoder` that calls `CausalPrior.next_logits`.

    Args:
        prior: in evaluation mode, on the device to decode on.
    """

    def __init__(self, prior: CausalPrior) -> None:
        """Keep the prior, whose weights are not copied."""
        super().__init__(prior, "float32")
        self._prior = prior

    @cached_property
    def row_bytes(self) -> int:
        """Return the memory of one row of the cache, in bytes."""
        return self._prior.new_cache(1).row_bytes

    @default_torch_modes()
    def logits(self, state: DecodeState[Any], count: int) -> Tensor:
        """Compute the logits that `step` samples from; see `PriorDecoder.logits`.

        A recurrent prior advances its state, so call this once at each position.
        """
        positions = state.positions[:count]
        labels, codes = state.labels[:count].to(self.device), state.codes[:count].to(self.device)
        if max(positions) == 0:
            inputs = labels
        elif min(positions) == max(positions):
            inputs = codes[:, positions[0] - 1]
        else:
            at = int64_tensor(positions, codes.device)
            before = codes.gather(1, (at - 1).clamp(min=0)[:, None])[:, 0]
            inputs = torch.where(at == 0, labels, before)
        found = self._prior.next_logits(inputs[:, None], positions, state.cache, slice(0, count))
        return found[:, 0].float()

    @default_torch_modes()
    def prefill(self, state: DecodeState[Any], first: int, count: int) -> None:
        """Fill the cache from codes; see `PriorDecoder.prefill`."""
        rows, drawn = slice(first, first + count), state.positions[first]
        inputs = torch.cat([state.labels[rows, None], state.codes[rows, : drawn - 1]], dim=1)
        self._prior.next_logits(inputs.to(self.device), [0] * count, state.cache, rows)

    def _new_cache(self, capacity: int, device: torch.device) -> KVCache:  # noqa: ARG002
        """Return a new cache on the device of the prior."""
        return self._prior.new_cache(capacity)
