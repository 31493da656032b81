"""The decode path as one call into our own kernel, `step.cpp`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytime_ar.kernel import BuildError, LinearMap, Weights, kernel, pad_up
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
    """See `Rows`."""

    def __init__(self, cache: NativeCache, code_length: int) -> None:
        super().__init__(cache, code_length, cache.memory.device)
        self._view = _Rows(
            cache=cache.memory.data_ptr(),
            layer_stride=cache.memory.stride(0),
            labels=self.labels.data_ptr(),
            codes=self.codes.data_ptr(),
            noise=self.noise.data_ptr(),
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

    @torch.no_grad()
    def __init__(self, prior: Prior, precision: Precision = "float32") -> None:
        super().__init__(prior, precision)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._run, self._multiply = kernel().anytime_step, kernel().anytime_multiply
        self._run.argtypes = [pointer, pointer, number, number, number, pointer, number]
        self._multiply.argtypes = [pointer, number, number]
        self._run.restype = self._multiply.restype = None
        self._weights = Weights(precision)
        self._prior = self._lay_out(prior)
        self._address = ctypes.addressof(self._prior)
        self._size = sum(weight.numel() for weight in prior.blocks.parameters())

    def step(self, rows: NativeRows, count: int) -> None:
        self._call(rows, 0, count, choose=True)

    def score(self, rows: NativeRows, count: int) -> Tensor:
        logits = torch.empty(count, self.vocabulary)
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
        self._multiply(self._address, rows, self._threads(rows))

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
        assert 0 <= first < first + count <= len(rows)
        assert max(rows.positions[first : first + count]) < self.code_length
        out = None if logits is None else logits.data_ptr()
        self._run(self._address, rows.address, first, count, choose, out, self._threads(count))

    def _threads(self, rows: int) -> int:
        return torch.get_num_threads() if rows * self._size >= _WORK_FOR_THREADS else 1

    def _new_rows(self, rows: int, device: torch.device) -> NativeRows:
        size = 2 * self._prior.attention * self.code_length
        dtype = torch.float32 if self.precision == "float32" else torch.bfloat16
        cache = NativeCache(self._prior.layers, rows, size, dtype, device)
        return NativeRows(cache, self.code_length)

    def _lay_out(self, prior: Prior) -> _Prior:
        config = prior.config
        blocks = [self._block(block) for block in prior.blocks]
        tables = self._entries.unflatten(0, (-1, prior.vocabulary))
        linear = self._weights.linear
        maps = [linear(table, bias) for table, bias in zip(tables, prior.entry_bias, strict=True)]
        scores = [maps[table] for table in prior.tables.tolist()]
        first = prior.blocks[0]
        assert isinstance(first, Block)
        return _Prior(
            layers=config.layers,
            width=config.width,
            heads=config.heads,
            attention=config.heads * pad_up(config.width // config.heads, _VECTOR),
            hidden=first.up.out_features,
            length=prior.code_length,
            vocabulary=prior.vocabulary,
            precision=_KINDS[self.precision],
            first=self._weights.hold(self._first),
            entries=self._weights.hold(self._entries),
            tables=self._weights.hold(prior.tables),
            positions=self._weights.hold(self._positions),
            reminders=None if self._reminders is None else self._weights.hold(self._reminders),
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
        return _Norm(self._weights.hold(norm.weight), self._weights.hold(norm.bias), norm.eps)
