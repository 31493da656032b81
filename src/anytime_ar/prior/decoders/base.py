"""The interface of the prior's decoders, and the state of the rows that they decode."""

from __future__ import annotations

import abc
import copy
import ctypes
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.codes import largest_vocabulary
from anytime_ar.conditions import Condition, Conditions, hidden_conditions
from anytime_ar.prior.block import Block
from anytime_ar.prior.causal import CausalPrior
from anytime_ar.prior.kv_cache import KVCache
from anytime_ar.prior.sampling_params import RowSamplingParams, sample_code_by_row
from anytime_ar.prior.transformer import Prior
from anytime_ar.runtime.tensors import BoundToProcess
from anytime_ar.runtime.torch_modes import default_torch_modes

CacheT = TypeVar("CacheT", bound=KVCache)


class DecodeState(BoundToProcess, Generic[CacheT]):
    """The state of a batch: a slot for each row, in plain memory that a kernel can read and write.

    Args:
        cache: has room for all rows.
        code_length: L.
        device: device that samples codes.
    """

    def __init__(self, cache: CacheT, code_length: int, device: torch.device) -> None:
        """Allocate a slot for each row of the cache."""
        capacity = cache.capacity
        self.cache = cache
        """Keys and values of each row."""
        self.codes = torch.zeros(capacity, code_length, dtype=torch.int64, device=device)
        """Codes of each row, int64 [capacity, L]; the first `positions[slot]` are valid."""
        self.noise = torch.zeros(capacity, code_length, dtype=torch.float64, device=device)
        """Random number that decides each code, float64 [capacity, L], in [0, 1)."""
        self.labels = torch.zeros(capacity, dtype=torch.int64, device=device)
        """Label of each row, int64 [capacity], in 0..no_label."""
        self.positions = (ctypes.c_int64 * capacity)()
        """Number of codes that each row has, an array of `capacity` integers."""
        self.sampling_params = (RowSamplingParams * capacity)()
        """Sampling parameters of each row, an array of `capacity` structs."""

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self.positions)

    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        self.cache.copy_row(source, target)
        for tensor in (self.codes, self.noise, self.labels):
            tensor[target] = tensor[source]
        self.positions[target] = self.positions[source]
        self.sampling_params[target] = self.sampling_params[source]


class TransformerDecodeState(DecodeState[CacheT]):
    """The state of a batch of our own prior, which reads labels and conditions as vectors.

    Args:
        cache: has room for all rows.
        code_length: L.
        sampling_device: device that samples codes.
        first_inputs: inputs at position 0 by label, [labels + 1, E]; rows are like them.
        everywhere: whether labels and conditions are added to the inputs of later positions too.
    """

    def __init__(
        self,
        cache: CacheT,
        code_length: int,
        sampling_device: torch.device,
        first_inputs: Tensor,
        *,
        everywhere: bool,
    ) -> None:
        """Allocate a slot for each row of the cache."""
        super().__init__(cache, code_length, sampling_device)
        shape = cache.capacity, first_inputs.shape[1]
        self.first_inputs = first_inputs.new_zeros(shape)
        """Input of each row at position 0, float32 [capacity, E]."""
        self.later_inputs: Tensor | None = None
        """What is added to the inputs of each row at later positions, float32 [capacity, E]."""
        if everywhere:
            self.later_inputs = first_inputs.new_zeros(shape)

    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        super().copy_row(source, target)
        self.first_inputs[target] = self.first_inputs[source]
        if self.later_inputs is not None:
            self.later_inputs[target] = self.later_inputs[source]


Precision = Literal["float32", "bfloat16", "int8"]
"""Number format of weights and of the inputs of matrix products while decoding. int8 has one
scale for each output of a linear map, and one for each row of its input."""

MAX_POOLED_BYTES = 2**29
"""Largest memory, in bytes, that a decoder holds between batches."""

StateT = TypeVar("StateT", bound=DecodeState[Any])
TransformerStateT = TypeVar("TransformerStateT", bound=TransformerDecodeState[Any])


class PriorDecoder(BoundToProcess, abc.ABC, Generic[StateT]):
    """A prior that draws codes for a batch of rows; build a new one when the weights change.

    Rows of a batch can be at different positions. Each row gets the logits and codes that it gets
    alone: to the last bit if the prior is ours, otherwise as exactly as its operations allow.

    Args:
        prior: in evaluation mode, on the device to decode on.
        precision: number format of weights and of inputs of matrix products; sums, norms and the
            residual stream stay in float32.
    """

    one_pass_prefill = True
    """Whether `prefill` computes all positions together, faster than steps."""

    def __init__(self, prior: Prior | CausalPrior, precision: Precision) -> None:
        """Take over the sizes and the device of the prior."""
        self.precision = precision
        self.code_length, self.vocabulary = prior.code_length, prior.vocabulary
        self._largest_vocabulary = largest_vocabulary(prior.vocabulary)
        self.no_label = prior.no_label
        self.conditions: Mapping[str, Condition] = prior.conditions
        """What the prior is conditioned on beside the label, by name."""
        self.device = prior.device
        # A deque needs no lock. A process forked while another thread holds a lock waits for ever.
        self._pool: deque[StateT] = deque(maxlen=1)

    def allocate(self, capacity: int) -> StateT:
        """Return cleared slots for `capacity` rows or more."""
        spare = self._take_pooled()
        if spare is not None and len(spare) >= capacity:
            spare.cache.clear()
            return spare
        return self._new_state(capacity)

    def release(self, state: StateT) -> None:
        """Take back a state that nobody uses any more, for the next batch.

        Fresh memory from the system costs as much time as a good part of decoding.
        """
        if state.cache.row_bytes * len(state) <= MAX_POOLED_BYTES:
            spare = self._take_pooled()
            self._pool.append(state if spare is None or len(spare) < len(state) else spare)

    def _take_pooled(self) -> StateT | None:
        """Return the pooled state, if any, and remove it from the pool."""
        try:
            return self._pool.pop()
        except IndexError:
            return None

    @cached_property
    def row_bytes(self) -> int:
        """Return the memory of one row's keys and values, in bytes."""
        return self._new_cache(1, torch.device("meta")).row_bytes

    @default_torch_modes()
    def step(self, state: StateT, count: int) -> None:
        """Sample the next code of the first `count` rows, none of which may be complete.

        Args:
            state: the cache of each row is filled below its position; codes and positions are
                updated.
            count: number of rows.
        """
        self.step_with_logits(state, count)

    @default_torch_modes()
    def step_with_logits(self, state: StateT, count: int) -> Tensor:
        """Sample as `step` does, and return the logits that the codes are sampled from.

        Args:
            state: as for `step`.
            count: number of rows.

        Returns:
            float32 [count, V], before guidance and the other sampling parameters.
        """
        logits = self.logits(state, count).to(state.noise.device)
        positions, params = state.positions[:count], state.sampling_params
        noise, codes = state.noise[:count], state.codes[:count]
        sizes = None
        if not isinstance(self.vocabulary, int):
            sizes = [self.vocabulary[position] for position in positions]
        if min(positions) == max(positions):  # as mostly; an index for each row takes longer
            here = positions[0]
            possible = logits if sizes is None else logits[:, : sizes[0]]
            codes[:, here] = sample_code_by_row(possible, noise[:, here], params)
        else:
            at = int64_tensor(positions, logits.device)[:, None]  # [count, 1]
            sampled = sample_code_by_row(logits, noise.gather(1, at)[:, 0], params, sizes)
            codes.scatter_(1, at, sampled[:, None])
        for slot in range(count):
            state.positions[slot] += 1
        return logits

    def set_conditions(
        self,
        state: StateT,
        first: int,
        labels: Tensor,
        conditions: Conditions | None,  # noqa: ARG002
    ) -> None:
        """Set what new rows are conditioned on.

        Args:
            state: the state of the rows.
            first: first of n rows.
            labels: int64 [n] in 0..no_label.
            conditions: n rows for each condition of the prior; None: none is given.
        """
        state.labels[first : first + len(labels)] = labels

    @abc.abstractmethod
    def logits(self, state: StateT, count: int) -> Tensor:
        """Compute the logits that `step` samples from, without sampling.

        Args:
            state: as for `step`, but codes and positions stay as they are.
            count: number of rows.

        Returns:
            float32 [count, V], equal to `Prior.forward(codes)[i, positions[i]]` up to rounding. If
            vocabularies differ, a row's logits after those of its own position mean nothing, and
            may be missing if no row needs them.
        """

    @abc.abstractmethod
    def prefill(self, state: StateT, first: int, count: int) -> None:
        """Fill the cache as if the codes of some rows had been sampled, bit for bit.

        Args:
            state: rows from `first` on have labels, codes, and the same position, at least 1.
            first: first of these rows.
            count: number of rows.
        """

    @property
    def _sampling_device(self) -> torch.device:
        """Return the device that samples codes: in float64, which Apple's GPUs do not support."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def _new_state(self, capacity: int) -> StateT:
        """Return a new state with `capacity` slots."""
        cache = self._new_cache(capacity, self.device)
        return cast("StateT", DecodeState(cache, self.code_length, self._sampling_device))

    @abc.abstractmethod
    def _new_cache(self, capacity: int, device: torch.device) -> KVCache:
        """Return a new cache; on the device `meta`, one without memory."""


class TransformerDecoder(PriorDecoder[TransformerStateT]):
    """A decoder of our own prior, whose weights it copies.

    Args:
        prior: see `PriorDecoder`.
        precision: see `PriorDecoder`.
    """

    def __init__(self, prior: Prior, precision: Precision) -> None:
        """Compute the embeddings that all decoders need."""
        super().__init__(prior, precision)
        self._code_embeddings = prior.full_embeddings().detach().clone()  # [R, E]
        self._position_embeddings, self._first_row = (
            prior.position_embedding.detach().clone(),
            prior.first_row.clone(),
        )
        self._first_inputs = (
            prior.label_embedding.weight.detach() + self._position_embeddings[0]
        )  # [labels + 1, E]
        self._added_label_embeddings: Tensor | None = None  # [labels + 1, E]
        if prior.added_label_embedding is not None:
            self._added_label_embeddings = prior.added_label_embedding.weight.detach().clone()
            self._first_inputs = self._first_inputs + self._added_label_embeddings
        self._conditions = None if prior.condition_encoder is None else _ConditionInputs(prior)
        self._memory_length = 0 if self._conditions is None else self._conditions.token_count

    @default_torch_modes()
    def set_conditions(
        self, state: TransformerStateT, first: int, labels: Tensor, conditions: Conditions | None
    ) -> None:
        """Set what new rows are conditioned on; see `PriorDecoder.set_conditions`."""
        super().set_conditions(state, first, labels, conditions)
        rows, labels = slice(first, first + len(labels)), labels.to(self.device)
        first_inputs, later_inputs = self._first_inputs[labels], None
        if self._added_label_embeddings is not None:
            later_inputs = self._added_label_embeddings[labels]
        if self._conditions is not None:
            added, keys_values = self._conditions.encode(len(labels), conditions)
            added = added.to(self.device)
            first_inputs = first_inputs + added
            later_inputs = None if later_inputs is None else later_inputs + added
            if keys_values is not None:
                self._write_memory(state, first, keys_values)
        state.first_inputs[rows] = first_inputs
        if state.later_inputs is not None:
            assert later_inputs is not None
            state.later_inputs[rows] = later_inputs

    @abc.abstractmethod
    def _write_memory(self, state: TransformerStateT, first: int, keys_values: Tensor) -> None:
        """Write the keys and values of condition tokens into the cache.

        Args:
            state: the state of the rows.
            first: first of n rows.
            keys_values: float32 [layers, 2, n, heads, M, head_width] on the CPU.
        """

    @abc.abstractmethod
    def matmul_only(self, rows: int) -> None:
        """Compute only the matrix products of complete sequences, as a lower bound for benchmarks.

        Args:
            rows: number of sequences.
        """


class _ConditionInputs:
    """The inputs of the prior from conditions.

    They are computed in float64 on the CPU and rounded once, so that a seed draws the same codes on
    every processor and whatever rows are added together.

    Args:
        prior: has conditions.
    """

    def __init__(self, prior: Prior) -> None:
        """Copy the weights that conditions meet."""
        assert prior.condition_encoder is not None
        self._known = prior.conditions
        self._encoder = copy.deepcopy(prior.condition_encoder).cpu().double().eval()
        self.token_count = self._encoder.token_count
        """M, the number of tokens of all conditions."""
        self._heads = prior.config.heads
        self._maps = []
        for block in prior.blocks if self.token_count else ():
            assert isinstance(block, Block)
            norm = copy.deepcopy(block.norm1).cpu().double()
            self._maps.append(
                (norm, block.qkv.weight.detach()[prior.config.width :].cpu().double())
            )

    def encode(self, n: int, conditions: Conditions | None) -> tuple[Tensor, Tensor | None]:
        """Encode the conditions of n rows.

        Returns:
            float32 [n, E], to add to the inputs; and keys and values of the tokens, float32
            [layers, 2, n, heads, M, head_width], or None without tokens.
        """
        if conditions is None:
            conditions = hidden_conditions(self._known, n, torch.device("cpu"))
        tensors = {name: conditions[name].cpu().contiguous() for name in self._known}
        # Samples of one text are many; it is encoded once.
        places: dict[bytes, int] = {}
        index: list[int] = []
        firsts: list[int] = []  # the first row of each
        for i in range(n):
            key = b"".join(rows[i].numpy().tobytes() for rows in tensors.values())
            if key not in places:
                places[key] = len(firsts)
                firsts.append(i)
            index.append(places[key])
        added, memory = self._encoder({name: rows[firsts] for name, rows in tensors.items()})
        if memory is None:
            return added.float()[index], None
        pairs = [
            F.linear(norm(memory), weight)
            .unflatten(-1, (2, self._heads, -1))
            .permute(2, 0, 3, 1, 4)
            for norm, weight in self._maps
        ]
        return added.float()[index], torch.stack(pairs).float()[:, :, index]


def int64_tensor(positions: Sequence[int], device: torch.device) -> Tensor:
    """Return positions as a tensor, int64 [B]."""
    return torch.tensor(positions, dtype=torch.int64, device=device)
