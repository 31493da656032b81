"""Priors that are not ours: any causal model over codes, behind the one decode loop."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from anytime_ar.codes import Vocabulary, as_vocabulary
from anytime_ar.conditions import Condition
from anytime_ar.errors import InputError
from anytime_ar.plugins import ModelPart
from anytime_ar.prior.kv_cache import KVCache


class CausalPrior(ModelPart, nn.Module, abc.ABC):
    """Base class of autoregressive distributions over codes int64 [B, L].

    A subclass computes the logits of the next code from an input and a cache. The input at position
    0 is a label, 0..label_count, of which the last means "no label". The input at a later position
    is the code before it. `HuggingFacePrior` is one; a recurrent network takes about 30 lines.

    Args:
        code_length: L.
        vocabulary: V, one number for all positions, or one for each.
        label_count: number of classes; 0 for an unconditional prior.
    """

    def __init__(self, code_length: int, vocabulary: Vocabulary, label_count: int = 0) -> None:
        """Store the sizes of the codes and the number of labels."""
        super().__init__()
        self.code_length, self.label_count = code_length, label_count
        self.vocabulary = as_vocabulary(vocabulary, code_length)

    @abc.abstractmethod
    def new_cache(self, capacity: int) -> KVCache:
        """Return a cache for `capacity` rows, on the device of the weights."""

    @abc.abstractmethod
    def next_logits(
        self, inputs: Tensor, positions: Sequence[int], cache: Any, rows: slice
    ) -> Tensor:
        """Compute the logits after each input, and add the inputs to the cache.

        Args:
            inputs: int64 [n, T], T consecutive inputs of n rows.
            positions: position of the first input of each row, n of them.
            cache: made by `new_cache`; holds the inputs of each row before its position. A row at
                position 0 is new, whatever the cache holds.
            rows: places of the n rows in the cache.

        Returns:
            float [n, T, V]; [:, i] are the logits of the code at position `positions + i`. If
            vocabularies differ, V is the largest one. Then the logits of values that a code cannot
            have do not matter: they are never drawn.
        """

    conditions: Mapping[str, Condition] = MappingProxyType({})
    """Such a prior has a label, and no other conditions."""
    label_dropout: float = 0.1
    """Share of training sequences without their label, [0, 1), which guidance needs."""

    @classmethod
    def complete_config(
        cls, config: dict[str, Any], code_length: int, vocabulary: Vocabulary, label_count: int
    ) -> dict[str, Any]:
        """Return settings of a prior that is to be trained, with the sizes of its codes filled in.

        Args:
            config: settings, as a user gives them.
            code_length: L.
            vocabulary: V.
            label_count: number of classes.

        Raises:
            InputError: a size is set otherwise.
        """
        values = vocabulary if isinstance(vocabulary, int) else list(vocabulary)
        sizes = {"code_length": code_length, "vocabulary": values, "label_count": label_count}
        for name, size in sizes.items():
            if config.get(name, size) != size:
                raise InputError(
                    f"prior.config.{name} is {config[name]}, and the codes have {size}; drop it"
                )
        return config | sizes

    @property
    def no_label(self) -> int:
        """Return the label that means "no label": samples of all classes."""
        return self.label_count

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        weight = next(self.parameters(), None)
        return torch.device("cpu") if weight is None else weight.device

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute the logits of every code given those before it.

        Args:
            codes: int64 [B, T], 1 <= T <= L; the last one has no effect.
            labels: int64 [B] in 0..label_count (`no_label`); None: no label.

        Returns:
            float [B, T, V]; [:, i] are the logits of code i, and depend on codes < i only. Those
            of values that code i cannot have are -inf.
        """
        batch = len(codes)
        inputs = self.inputs_of(codes, labels)
        cache = self.new_cache(batch)
        return self.mask_logits(self.next_logits(inputs, [0] * batch, cache, slice(0, batch)))

    def mask_logits(self, logits: Tensor) -> Tensor:
        """Set the logits of values that codes cannot have to -inf.

        Args:
            logits: logits of all positions from the first one on, float [B, T, V].
        """
        if isinstance(self.vocabulary, int):
            return logits
        sizes = torch.tensor(self.vocabulary[: logits.shape[1]], device=logits.device)
        values = torch.arange(logits.shape[2], device=logits.device)
        return logits.masked_fill(values >= sizes[:, None], -torch.inf)

    def inputs_of(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the inputs after which codes are predicted: a label, and all codes but the last.

        Args:
            codes: int64 [B, T].
            labels: see `forward`.

        Returns:
            int64 [B, T].
        """
        if labels is None:
            labels = torch.full((len(codes),), self.no_label, device=codes.device)
        return torch.cat([labels[:, None], codes[:, :-1]], dim=1)

    def nll(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute the negative log-likelihood of each code given those before it, in nats.

        Args:
            codes: int64 [B, T], 1 <= T <= L.
            labels: see `forward`.

        Returns:
            float32 [B, T].
        """
        return cross_entropy_of_codes(self(codes, labels), codes)


def cross_entropy_of_codes(logits: Tensor, codes: Tensor) -> Tensor:
    """Compute the cross-entropy of codes int64 [B, T] under logits [B, T, V], in nats.

    Returns:
        float32 [B, T], -ln p of each code.
    """
    costs = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), codes.flatten(), reduction="none"
    )
    return costs.unflatten(0, codes.shape)
