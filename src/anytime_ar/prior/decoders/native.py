"""Decode the prior with one call per step into the native kernel, `prior_step.cpp`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytime_ar.errors import InputError
from anytime_ar.kernel import (
    BuildError,
    LinearMap,
    PackedWeights,
    check_status,
    check_struct_sizes,
    checked_data_ptr,
    kernel_library,
    round_up,
)
from anytime_ar.prior.block import Block
from anytime_ar.prior.decoders.base import (
    Precision,
    TransformerDecoder,
    TransformerDecodeState,
)
from anytime_ar.prior.kv_cache import KVCache
from anytime_ar.prior.sampling_params import RowSamplingParams
from anytime_ar.prior.transformer import Prior
from anytime_ar.runtime.torch_modes import default_torch_modes

_VECTOR_LANES = 16
"""Number of float32 values in a vector of the kernel."""
_MAX_HEAD_WIDTH = 128
"""Largest head width that the kernel supports."""
_PRECISION_CODES = {"float32": 0, "bfloat16": 1, "int8": 2}
"""Values of the kernel's enum `Precision`, by name."""
_MIN_WORK_FOR_THREADS = 2**25
"""Weights times rows from which on a step's products are shared among threads."""


class _NormStruct(ctypes.Structure):
    """The struct `Norm` of abi.h: a layer norm."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_float),
    )


class _BlockStruct(ctypes.Structure):
    """The struct `Block` of abi.h: a Transformer block."""

    _fields_ = (
        ("norm1", _NormStruct),
        ("qkv", LinearMap),
        ("out", LinearMap),
        ("norm2", _NormStruct),
        ("up", LinearMap),
        ("down", LinearMap),
    )


class _PriorStruct(ctypes.Structure):
    """The struct `Prior` of abi.h: sizes and weights of a prior."""

    _fields_ = (
        ("layers", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("attention", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("vocabulary", ctypes.c_int64),
        ("precision", ctypes.c_int64),
        ("memory", ctypes.c_int64),
        ("entries", ctypes.c_void_p),
        ("first_rows", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("blocks", ctypes.POINTER(_BlockStruct)),
        ("norm", _NormStruct),
        ("scores", ctypes.POINTER(LinearMap)),
    )


class _DecodeStateStruct(ctypes.Structure):
    """The struct `DecodeState` of abi.h: pointers into a `DecodeState`."""

    _fields_ = (
        ("cache", ctypes.c_void_p),
        ("layer_stride", ctypes.c_int64),
        ("first_inputs", ctypes.c_void_p),
        ("later_inputs", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("noise", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("choices", ctypes.c_void_p),
    )


class NativeKVCache(KVCache):
    """Keys and values in the kernel's memory layout.

    Args:
        layers: number of layers.
        capacity: maximum number of rows.
        row_size: numbers of one row and layer.
        dtype: number format of keys and values.
        device: `cpu`, or `meta` for a cache without memory.
    """

    def __init__(
        self, layers: int, capacity: int, row_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Allocate the memory of all rows."""
        self.memory = torch.zeros(layers, capacity, row_size, dtype=dtype, device=device)
        super().__init__(capacity, [self.memory])

    def clear(self) -> None:
        """Do nothing: the kernel reads no further than it has written."""

    def copy_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        self.memory[:, target] = self.memory[:, source]


class NativeDecodeState(TransformerDecodeState[NativeKVCache]):
    """A `DecodeState` whose memory the kernel reads and writes.

    Args:
        cache: cache of the decoder.
        code_length: L.
        first_inputs: see `TransformerDecodeState`.
        owner: token of the decoder, which accepts no other decoder's states.
        everywhere: see `TransformerDecodeState`.
    """

    def __init__(
        self,
        cache: NativeKVCache,
        code_length: int,
        first_inputs: Tensor,
        owner: object,
        *,
        everywhere: bool,
    ) -> None:
        """Allocate the slots, and check what the kernel assumes of them."""
        device = cache.memory.device
        super().__init__(cache, code_length, device, first_inputs, everywhere=everywhere)
        width = first_inputs.shape[1]
        self.owner = owner
        """Token of the decoder that allocated this state."""
        memory, each = cache.memory, (cache.capacity, code_length)
        self._view = _DecodeStateStruct(
            cache=checked_data_ptr(memory, memory.dtype, *memory.shape),
            layer_stride=memory.stride(0),
            first_inputs=checked_data_ptr(self.first_inputs, torch.float32, cache.capacity, width),
            later_inputs=None
            if self.later_inputs is None
            else checked_data_ptr(self.later_inputs, torch.float32, cache.capacity, width),
            codes=checked_data_ptr(self.codes, torch.int64, *each),
            noise=checked_data_ptr(self.noise, torch.float64, *each),
            positions=ctypes.addressof(self.positions),
            choices=ctypes.addressof(self.sampling_params),
        )

    def current_address(self) -> int:
        """Look up where the tensors are, and return the address of the struct `DecodeState`.

        Moving a tensor to shared memory gives it another address.
        """
        view = self._view
        view.cache, view.first_inputs = self.cache.memory.data_ptr(), self.first_inputs.data_ptr()
        if self.later_inputs is not None:
            view.later_inputs = self.later_inputs.data_ptr()
        view.codes, view.noise = self.codes.data_ptr(), self.noise.data_ptr()
        return ctypes.addressof(view)


def unsupported_reason(prior: Prior) -> str | None:
    """Return why the kernel cannot decode a prior; None if it can."""
    if prior.code_embedding.weight.device.type != "cpu":
        return f"it is for CPUs, not {prior.code_embedding.weight.device.type}"
    if prior.config.width > _MAX_HEAD_WIDTH * prior.config.heads:
        return f"heads are {prior.config.width // prior.config.heads} wide, over {_MAX_HEAD_WIDTH}"
    try:
        kernel_library()
    except BuildError as error:
        return str(error)
    return None


class NativePriorDecoder(TransformerDecoder[NativeDecodeState]):
    """A `PriorDecoder` that runs in the native kernel.

    `unsupported_reason` says whether the kernel supports a prior.

    Args:
        prior: in evaluation mode, on the CPU.
        precision: see `PriorDecoder`.

    Raises:
        BuildError: there is no kernel on this machine.
    """

    one_pass_prefill = False

    @default_torch_modes()
    def __init__(self, prior: Prior, precision: Precision = "float32") -> None:
        """Pack the weights of the prior for the kernel."""
        super().__init__(prior, precision)
        check_struct_sizes(
            Linear=LinearMap,
            Norm=_NormStruct,
            Block=_BlockStruct,
            Prior=_PriorStruct,
            RowSamplingParams=RowSamplingParams,
            DecodeState=_DecodeStateStruct,
        )
        self._owner = object()
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._run, self._run_matmul_only = (
            kernel_library().anytime_prior_step,
            kernel_library().anytime_matmul_only,
        )
        self._run.argtypes = [pointer, pointer, number, number, number, pointer, number]
        self._run_matmul_only.argtypes = [pointer, number, number]
        self._run.restype = self._run_matmul_only.restype = number
        self._weights = PackedWeights(precision)
        self._prior = self._pack(prior)
        self._address = ctypes.addressof(self._prior)
        self._size = sum(weight.numel() for weight in prior.blocks.parameters())

    def step(self, state: NativeDecodeState, count: int) -> None:
        """Sample the next code of the first `count` rows; see `PriorDecoder.step`."""
        self._call(state, 0, count, sample=True)

    def step_with_logits(self, state: NativeDecodeState, count: int) -> Tensor:
        """Sample the next codes and return their logits; see `PriorDecoder.step_with_logits`."""
        shape = count, self._largest_vocabulary
        logits = torch.empty(shape, dtype=torch.float32, device="cpu")
        self._call(state, 0, count, sample=True, logits=logits)
        return logits

    def logits(self, state: NativeDecodeState, count: int) -> Tensor:
        """Compute the logits that `step` samples from; see `PriorDecoder.logits`."""
        shape = count, self._largest_vocabulary
        logits = torch.empty(shape, dtype=torch.float32, device="cpu")
        self._call(state, 0, count, logits=logits)
        return logits

    def prefill(self, state: NativeDecodeState, first: int, count: int) -> None:
        """Fill the cache from codes; see `PriorDecoder.prefill`."""
        slots = range(first, first + count)
        for position in range(state.positions[first]):
            for slot in slots:
                state.positions[slot] = position
            self._call(state, first, count)
        for slot in slots:
            state.positions[slot] += 1

    def matmul_only(self, rows: int) -> None:
        """Compute only the matrix products; see `PriorDecoder.matmul_only`."""
        check_status(self._run_matmul_only(self._address, rows, self._threads(rows)))

    def _call(
        self,
        state: NativeDecodeState,
        first: int,
        count: int,
        *,
        sample: bool = False,
        logits: Tensor | None = None,
    ) -> None:
        """Run one step of the kernel.

        Args:
            state: a state that this decoder allocated.
            first: first row.
            count: number of rows.
            sample: whether to sample a code for each row; `first` is 0 then.
            logits: tensor to write logits to, float32 [count, V]; None: do not write them.

        Raises:
            InputError: the rows are not of this decoder, or one of them is complete.
            MemoryError: the kernel has no room for its working memory.
        """
        # The kernel checks no addresses, so check the arguments here.
        if state.owner is not self._owner or not 0 <= first < first + count <= len(state):
            raise InputError(
                f"rows {first}..{first + count - 1} are not among the {len(state)} that this "
                "decoder gave; use those of its `allocate`"
            )
        furthest = max(state.positions[first : first + count])
        if furthest >= self.code_length:
            raise InputError(
                f"a row has {furthest} codes, and this prior draws {self.code_length}; "
                "let complete rows leave"
            )
        out = (
            None
            if logits is None
            else checked_data_ptr(logits, torch.float32, count, self._largest_vocabulary)
        )
        threads = self._threads(count)
        rows = state.current_address()
        check_status(self._run(self._address, rows, first, count, sample, out, threads))

    def _threads(self, rows: int) -> int:
        """Return the number of threads for a step of `rows` rows."""
        return torch.get_num_threads() if rows * self._size >= _MIN_WORK_FOR_THREADS else 1

    def _new_state(self, capacity: int) -> NativeDecodeState:
        """Return a new state with `capacity` slots."""
        return NativeDecodeState(
            self._new_cache(capacity, self.device),
            self.code_length,
            self._first_inputs.float(),
            self._owner,
            everywhere=self._added_label_embeddings is not None,
        )

    def _write_memory(self, state: NativeDecodeState, first: int, keys_values: Tensor) -> None:
        """Write the keys and values of condition tokens; see `TransformerDecoder`."""
        layers, _, n, heads, _, head = keys_values.shape
        padded = F.pad(keys_values, (0, self._prior.attention // heads - head))
        places = state.cache.memory[:, first : first + n].view(
            layers, n, 2, self._prior.memory + self.code_length, self._prior.attention
        )
        # [layers, 2, n, heads, M, head] -> [layers, n, 2, M, heads * head]
        places[:, :, :, : self._prior.memory] = padded.permute(0, 2, 1, 4, 3, 5).flatten(4)

    def _new_cache(self, capacity: int, device: torch.device) -> NativeKVCache:
        """Return a new cache; on the device `meta`, one without memory."""
        size = 2 * self._prior.attention * (self._prior.memory + self.code_length)
        dtype = torch.float32 if self.precision == "float32" else torch.bfloat16
        return NativeKVCache(self._prior.layers, capacity, size, dtype, device)

    def _pack(self, prior: Prior) -> _PriorStruct:
        """Pack the sizes and weights of a prior into the kernel's struct."""
        config = prior.config
        blocks = [self._pack_block(block) for block in prior.blocks]
        tables = self._code_embeddings.split(prior.table_sizes)
        biases = prior.output_bias.flatten().split(prior.table_sizes)
        linear = self._weights.pack_linear
        maps = [linear(table, bias) for table, bias in zip(tables, biases, strict=True)]
        scores = [maps[table] for table in prior.table_of_position.tolist()]
        first = prior.blocks[0]
        assert isinstance(first, Block)
        length, width = prior.code_length, config.width
        hold = self._weights.keep_alive
        return _PriorStruct(
            layers=config.layers,
            width=width,
            heads=config.heads,
            attention=config.heads * round_up(config.width // config.heads, _VECTOR_LANES),
            hidden=first.up.out_features,
            length=length,
            vocabulary=self._largest_vocabulary,
            precision=_PRECISION_CODES[self.precision],
            memory=self._memory_length,
            entries=hold(self._code_embeddings, sum(prior.table_sizes), width),
            first_rows=hold(self._first_row, length, dtype=torch.int64),
            positions=hold(self._position_embeddings, length, width),
            blocks=(_BlockStruct * len(blocks))(*blocks),
            norm=self._pack_norm(prior.norm),
            scores=(LinearMap * len(scores))(*scores),
        )

    def _pack_block(self, block: nn.Module) -> _BlockStruct:
        """Pack the weights of a Transformer block."""
        assert isinstance(block, Block)
        head = block.out.in_features // block.heads
        # Heads are padded to whole vectors, with zeros.
        missing = round_up(head, _VECTOR_LANES) - head
        q, k, v = block.qkv.weight.unflatten(0, (3, block.heads, head))  # [heads, head, E]
        qkv = torch.stack([q * head**-0.5, k, v])  # attention scales queries by this
        qkv = F.pad(qkv, (0, 0, 0, missing)).flatten(0, 2)
        out = F.pad(block.out.weight.unflatten(1, (block.heads, head)), (0, missing)).flatten(1)
        return _BlockStruct(
            norm1=self._pack_norm(block.norm1),
            qkv=self._weights.pack_linear(qkv, None),
            out=self._weights.pack_linear(out, None),
            norm2=self._pack_norm(block.norm2),
            up=self._weights.pack_linear(block.up.weight, block.up.bias),
            down=self._weights.pack_linear(block.down.weight, block.down.bias),
        )

    def _pack_norm(self, norm: nn.LayerNorm) -> _NormStruct:
        """Pack the weights of a layer norm."""
        width = norm.normalized_shape[0]
        weight, bias = (self._weights.keep_alive(one, width) for one in (norm.weight, norm.bias))
        return _NormStruct(weight, bias, norm.eps)
