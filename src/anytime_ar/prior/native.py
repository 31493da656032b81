"""The decode path as one call into our own kernel, `step.cpp`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytime_ar.ambient import defaults
from anytime_ar.errors import InputError
from anytime_ar.kernel import (
    BuildError,
    LinearMap,
    Weights,
    address,
    check_status,
    check_structures,
    kernel,
    pad_up,
)
from anytime_ar.prior.choice import RowChoice
from anytime_ar.prior.decoder import Decoder, Precision
from anytime_ar.prior.rows import Rows
from anytime_ar.prior.transformer import Block, Prior

_VECTOR = 16
"""float32 numbers that the kernel works on at once."""
_WIDEST_HEAD = 128
"""Of the kernel."""
_KINDS = {"float32": 0, "bfloat16": 1, "int8": 2}
_WORK_FOR_THREADS = 2**25
"""Weights times rows from which on the products of a step are shared among threads."""


class _Norm(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("eps", ctypes.c_float),
    )


class _Block(ctypes.Structure):
    _fields_ = (
        ("norm1", _Norm),
        ("qkv", LinearMap),
        ("out", LinearMap),
        ("norm2", _Norm),
        ("up", LinearMap),
        ("down", LinearMap),
    )


class _Prior(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("attention", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("vocabulary", ctypes.c_int64),
        ("precision", ctypes.c_int64),
        ("first", ctypes.c_void_p),
        ("entries", ctypes.c_void_p),
        ("tables", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("reminders", ctypes.c_void_p),
        ("blocks", ctypes.POINTER(_Block)),
        ("norm", _Norm),
        ("scores", ctypes.POINTER(LinearMap)),
    )


class _Rows(ctypes.Structure):
    _fields_ = (
        ("cache", ctypes.c_void_p),
        ("layer_stride", ctypes.c_int64),
        ("labels", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("noise", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("choices", ctypes.c_void_p),
    )


class NativeCache:
    """Keys and values, in the order of the kernel.

    Args:
        layers: number of layers.
        rows: how many rows there is room for.
        row_size: numbers of one row and layer.
        dtype: of the numbers.
        device: `cpu`, or `meta` for one without memory.
    """

    def __init__(
        self, layers: int, rows: int, row_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.memory = torch.zeros(layers, rows, row_size, dtype=dtype, device=device)

    @property
    def rows(self) -> int:
        """How many rows there is room for."""
        return self.memory.shape[1]

    @property
    def row_bytes(self) -> int:
        """Memory that one row takes."""
        return self.memory.nbytes // self.rows

    def clear(self) -> None:
        """Nothing to do: rows read no further than they have written."""

    def move(self, source: int, target: int) -> None:
        """Copy one row over another."""
        self.memory[:, target] = self.memory[:, source]


class NativeRows(Rows[NativeCache]):
    """See `Rows`.

    Args:
        cache: of the decoder.
        code_length: L.
        mark: of the decoder, which draws in no other rows.
    """

    def __init__(self, cache: NativeCache, code_length: int, mark: object) -> None:
        super().__init__(cache, code_length, cache.memory.device)
        self.mark = mark
        memory, each = cache.memory, (cache.rows, code_length)
        self._view = _Rows(
            cache=address(memory, memory.dtype, *memory.shape),
            layer_stride=memory.stride(0),
            labels=address(self.labels, torch.int64, cache.rows),
            codes=address(self.codes, torch.int64, *each),
            noise=address(self.noise, torch.float64, *each),
            positions=ctypes.addressof(self.positions),
            choices=ctypes.addressof(self.choices),
        )
        self.address = ctypes.addressof(self._view)
        """Where the kernel finds all of it."""


def refusal(prior: Prior) -> str | None:
    """Why the kernel does not draw from a prior; None if it does."""
    if prior.entries.weight.device.type != "cpu":
        return f"it is for CPUs, not {prior.entries.weight.device.type}"
    if prior.config.width > _WIDEST_HEAD * prior.config.heads:
        return f"heads are {prior.config.width // prior.config.heads} wide, over {_WIDEST_HEAD}"
    try:
        kernel()
    except BuildError as error:
        return str(error)
    return None


class NativeDecoder(Decoder[NativeRows]):
    """See `Decoder`. `refusal` tells whether there can be one.

    Raises:
        BuildError: there is no kernel on this machine.
    """

    @defaults()
    def __init__(self, prior: Prior, precision: Precision = "float32") -> None:
        super().__init__(prior, precision)
        check_structures(
            Linear=LinearMap, Norm=_Norm, Block=_Block, Prior=_Prior, Choice=RowChoice, Rows=_Rows
        )
        self._mark = object()
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._run, self._multiply = kernel().anytime_step, kernel().anytime_multiply
        self._run.argtypes = [pointer, pointer, number, number, number, pointer, number]
        self._multiply.argtypes = [pointer, number, number]
        self._run.restype = self._multiply.restype = number
        self._weights = Weights(precision)
        self._prior = self._lay_out(prior)
        self._address = ctypes.addressof(self._prior)
        self._size = sum(weight.numel() for weight in prior.blocks.parameters())

    def step(self, rows: NativeRows, count: int) -> None:
        self._call(rows, 0, count, choose=True)

    def score(self, rows: NativeRows, count: int) -> Tensor:
        logits = torch.empty(count, self.vocabulary, dtype=torch.float32, device="cpu")
        self._call(rows, 0, count, logits=logits)
        return logits

    def replay(self, rows: NativeRows, first: int, count: int) -> None:
        slots = range(first, first + count)
        for position in range(rows.positions[first]):
            for slot in slots:
                rows.positions[slot] = position
            self._call(rows, first, count)
        for slot in slots:
            rows.positions[slot] += 1

    def multiply_only(self, rows: int) -> None:
        check_status(self._multiply(self._address, rows, self._threads(rows)))

    def _call(
        self,
        rows: NativeRows,
        first: int,
        count: int,
        *,
        choose: bool = False,
        logits: Tensor | None = None,
    ) -> None:
        # The kernel reads and writes wherever it is told to.
        if rows.mark is not self._mark or not 0 <= first < first + count <= len(rows):
            raise InputError(
                f"rows {first}..{first + count - 1} are not among the {len(rows)} that this "
                "decoder gave; use those of its `allocate`"
            )
        furthest = max(rows.positions[first : first + count])
        if furthest >= self.code_length:
            raise InputError(
                f"a row has {furthest} codes, and this prior draws {self.code_length}; "
                "let complete rows leave"
            )
        out = None if logits is None else address(logits, torch.float32, count, self.vocabulary)
        threads = self._threads(count)
        check_status(self._run(self._address, rows.address, first, count, choose, out, threads))

    def _threads(self, rows: int) -> int:
        return torch.get_num_threads() if rows * self._size >= _WORK_FOR_THREADS else 1

    def _new_rows(self, rows: int) -> NativeRows:
        return NativeRows(self._new_cache(rows, self.device), self.code_length, self._mark)

    def _new_cache(self, rows: int, device: torch.device) -> NativeCache:
        size = 2 * self._prior.attention * self.code_length
        dtype = torch.float32 if self.precision == "float32" else torch.bfloat16
        return NativeCache(self._prior.layers, rows, size, dtype, device)

    def _lay_out(self, prior: Prior) -> _Prior:
        config = prior.config
        blocks = [self._block(block) for block in prior.blocks]
        tables = self._entries.unflatten(0, (-1, prior.vocabulary))
        linear = self._weights.linear
        maps = [linear(table, bias) for table, bias in zip(tables, prior.entry_bias, strict=True)]
        scores = [maps[table] for table in prior.tables.tolist()]
        first = prior.blocks[0]
        assert isinstance(first, Block)
        length, width = prior.code_length, config.width
        labels, entries = prior.no_label + 1, len(maps) * prior.vocabulary
        hold = self._weights.hold
        return _Prior(
            layers=config.layers,
            width=width,
            heads=config.heads,
            attention=config.heads * pad_up(config.width // config.heads, _VECTOR),
            hidden=first.up.out_features,
            length=length,
            vocabulary=prior.vocabulary,
            precision=_KINDS[self.precision],
            first=hold(self._first, labels, width),
            entries=hold(self._entries, entries, width),
            tables=hold(prior.tables, length, dtype=torch.int64),
            positions=hold(self._positions, length, width),
            reminders=None if self._reminders is None else hold(self._reminders, labels, width),
            blocks=(_Block * len(blocks))(*blocks),
            norm=self._normalisation(prior.norm),
            scores=(LinearMap * len(scores))(*scores),
        )

    def _block(self, block: nn.Module) -> _Block:
        assert isinstance(block, Block)
        head = block.out.in_features // block.heads
        missing = pad_up(head, _VECTOR) - head  # heads are filled up to whole vectors, with zeros
        q, k, v = block.qkv.weight.unflatten(0, (3, block.heads, head))  # [heads, head, E]
        qkv = torch.stack([q * head**-0.5, k, v])  # attention scales queries by this
        qkv = F.pad(qkv, (0, 0, 0, missing)).flatten(0, 2)
        out = F.pad(block.out.weight.unflatten(1, (block.heads, head)), (0, missing)).flatten(1)
        return _Block(
            norm1=self._normalisation(block.norm1),
            qkv=self._weights.linear(qkv, None),
            out=self._weights.linear(out, None),
            norm2=self._normalisation(block.norm2),
            up=self._weights.linear(block.up.weight, block.up.bias),
            down=self._weights.linear(block.down.weight, block.down.bias),
        )

    def _normalisation(self, norm: nn.LayerNorm) -> _Norm:
        width = norm.normalized_shape[0]
        weight, bias = (self._weights.hold(one, width) for one in (norm.weight, norm.bias))
        return _Norm(weight, bias, norm.eps)
