"""The key-value cache: what a prior remembers of a draw, allocated once and filled in place."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class KVCache:
    """Keys and values of the positions seen so far, for every layer. A value of the caller, never
    of the module, so that several draws on one prior do not disturb each other.

    Args:
        keys: float [layers, B, heads, L, head_width].
        values: the same shape.
    """

    keys: Tensor
    values: Tensor

    @property
    def batch(self) -> int:
        """Number of rows, B."""
        return self.keys.shape[1]
