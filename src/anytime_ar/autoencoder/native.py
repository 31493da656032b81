"""From codes to pictures in one call into our own kernel, `picture.cpp`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from anytime_ar.ambient import defaults
from anytime_ar.autoencoder.layouts import (
    ChannelLayout,
    ResidualLayout,
    SpatialLayout,
    VectorLayout,
)
from anytime_ar.autoencoder.model import OrderedAutoencoder
from anytime_ar.autoencoder.networks import ConvDecoder, ResidualBlock
from anytime_ar.calibration import Calibration, Candidate
from anytime_ar.codes import check_codes, check_prefix
from anytime_ar.kernel import (
    UNKNOWN_CODE,
    BuildError,
    LinearMap,
    Weights,
    address,
    check_status,
    check_structures,
    kernel,
)

_MOST_ENTRIES = 2**26
"""Numbers in the table of all entries: those of a large grid of `fsq` are better computed."""
_LAYOUTS = {VectorLayout: 0, ChannelLayout: 1, SpatialLayout: 2, ResidualLayout: 3}
_WORK_FOR_THREADS = 2**25
"""Multiplications from which on pictures are shared among threads."""


class _Residual(ctypes.Structure):
    _fields_ = (("spread", LinearMap), ("mix", LinearMap))


class _Stage(ctypes.Structure):
    _fields_ = (
        ("block", ctypes.POINTER(_Residual)),
        ("blocks", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("up", LinearMap),
    )


class _Decoder(ctypes.Structure):
    _fields_ = (
        ("code_length", ctypes.c_int64),
        ("code_width", ctypes.c_int64),
        ("vocabulary", ctypes.c_int64),
        ("layout", ctypes.c_int64),
        ("entries", ctypes.c_void_p),
        ("fill", ctypes.c_void_p),
        ("line", LinearMap),
        ("bend", LinearMap),
        ("unbend", LinearMap),
        ("places", ctypes.c_void_p),
        ("features", ctypes.c_int64),
        ("side", ctypes.c_int64),
        ("first", LinearMap),
        ("stage", ctypes.POINTER(_Stage)),
        ("stages", ctypes.c_int64),
        ("last", LinearMap),
        ("patch", ctypes.c_int64),
    )


def decode_for(
    autoencoder: OrderedAutoencoder,
    backend: Literal["auto", "native", "portable"] = "auto",
    calibration: Calibration | None = None,
) -> Callable[[Tensor], Tensor]:
    """Return the way to decode: our own kernel, or the autoencoder itself where the kernel does not
    know its network, for other devices, and without a kernel.

    Args:
        autoencoder: in evaluation mode; its weights must not change any more.
        backend: `native` for the kernel where it can be had, `portable` for the autoencoder itself,
            `auto` for the faster one on this machine, as timed at the first use.
        calibration: where decisions are kept; None: in the cache folder.
    """
    layout = type(autoencoder.layout) in _LAYOUTS and autoencoder.linear_path is None
    entries = autoencoder.code_length * autoencoder.vocabulary * autoencoder.code_width
    known = isinstance(autoencoder.decoder, ConvDecoder) and layout and entries <= _MOST_ENTRIES
    if backend == "portable" or not known or autoencoder.fill.device.type != "cpu":
        return autoencoder.decode
    try:
        kernel()
    except BuildError:
        return autoencoder.decode
    ways: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        "native": lambda: NativeDecode(autoencoder),
        "portable": lambda: autoencoder.decode,
    }
    if backend == "native":
        return ways["native"]()
    shape = autoencoder.config.model_dump_json(include={"layout", "code_width", "network"})
    key = f"decode of {shape} {autoencoder.code_length} to {autoencoder.sample_shape}"

    def candidate(name: str) -> Candidate:
        def prepare() -> Callable[[int], object]:
            decode = ways[name]()
            nothing = torch.zeros(1, autoencoder.code_length, dtype=torch.int64, device="cpu")
            return lambda rows: decode(nothing.expand(rows, -1))

        return Candidate(name, prepare)

    return ways[(calibration or Calibration()).fastest(key, [*map(candidate, ways)])]()


class NativeDecode:
    """`OrderedAutoencoder.decode`, equal up to rounding; a row's bits do not depend on the others.

    Args:
        autoencoder: a convolutional one on the CPU.

    Raises:
        BuildError: there is no kernel on this machine.
    """

    @defaults()
    def __init__(self, autoencoder: OrderedAutoencoder) -> None:
        check_structures(Linear=LinearMap, Residual=_Residual, Stage=_Stage, Decoder=_Decoder)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._run = kernel().anytime_decode
        self._run.argtypes = [pointer, pointer, number, number, pointer, number]
        self._run.restype = number
        self._length, self._vocabulary = autoencoder.code_length, autoencoder.vocabulary
        self._sample_shape = autoencoder.sample_shape
        self._weights = Weights("float32")
        self._work = 0  # multiplications for one picture
        self._decoder = self._lay_out(autoencoder)
        self._address = ctypes.addressof(self._decoder)

    def __call__(self, codes: Tensor) -> Tensor:
        """See `OrderedAutoencoder.decode`."""
        check_prefix(codes, length=self._length)
        rows, kept = codes.shape
        codes = codes.contiguous()
        shape = rows, *self._sample_shape
        pixels = torch.empty(shape, dtype=torch.float32, device="cpu")
        threads = torch.get_num_threads() if rows * self._work >= _WORK_FOR_THREADS else 1
        source = address(codes, torch.int64, rows, kept)
        target = address(pixels, torch.float32, *shape)
        status = self._run(self._address, source, rows, kept, target, threads)
        check_status(status)
        if status == UNKNOWN_CODE:
            check_codes(codes, length=self._length, vocabulary=self._vocabulary)
        return pixels

    def _lay_out(self, autoencoder: OrderedAutoencoder) -> _Decoder:
        network, layout = autoencoder.config.network, autoencoder.layout
        assert network is not None
        side = autoencoder.sample_shape[1] // network.stride
        entries = autoencoder.entry_vectors()  # [L, V, D]
        length, width = self._length, autoencoder.code_width
        decoder = _Decoder(
            code_length=length,
            code_width=width,
            vocabulary=self._vocabulary,
            layout=_LAYOUTS[type(layout)],
            entries=self._weights.hold(entries, length, self._vocabulary, width),
            fill=self._weights.hold(autoencoder.fill, length, width),
            features=layout.features,
            side=side,
            patch=network.patch,
        )
        if isinstance(layout, VectorLayout):
            self._add_expansion(decoder, layout, side)
        if isinstance(layout, ResidualLayout):
            decoder.places = self._weights.hold(layout.places, side**2, dtype=torch.int64)
        assert isinstance(autoencoder.decoder, ConvDecoder)
        self._add_network(decoder, autoencoder.decoder, len(network.widths))
        return decoder

    def _add_expansion(self, decoder: _Decoder, layout: VectorLayout, side: int) -> None:
        def by_position(linear: nn.Module) -> LinearMap:
            """Outputs [F, h, w] become [h, w, F]."""
            assert isinstance(linear, nn.Linear)
            order = _count(linear.out_features).view(layout.features, side**2).T.flatten()
            return self._weights.linear(linear.weight[order], linear.bias[order])

        decoder.line = by_position(layout.expand.linear)
        if layout.expand.bend is not None:
            first, _, last = layout.expand.bend
            assert isinstance(first, nn.Linear)
            decoder.bend = self._weights.linear(first.weight, first.bias)
            decoder.unbend = by_position(last)

    def _add_network(self, decoder: _Decoder, network: ConvDecoder, stages: int) -> None:
        first, *rest = network.layers
        assert isinstance(first, nn.Conv2d)
        side, width = decoder.side, first.out_channels
        decoder.first = self._convolution(first, side)
        found: list[_Stage] = []
        blocks: list[_Residual] = []
        for layer in rest:
            if isinstance(layer, ResidualBlock):
                spread = self._convolution(layer.spread, side)
                blocks.append(_Residual(spread, self._convolution(layer.mix, side)))
            elif isinstance(layer, nn.Conv2d):
                found.append(_Stage((_Residual * len(blocks))(*blocks), len(blocks), width))
                if len(found) == stages:
                    decoder.last = self._convolution(layer, side)
                else:
                    # [channels, 2, 2], as a pixel shuffle reads outputs, becomes [2, 2, channels]
                    order = _count(layer.out_channels).view(-1, 4).T.flatten()
                    found[-1].up = self._convolution(layer, side, order)
                    blocks, width, side = [], layer.out_channels // 4, 2 * side
        decoder.stage, decoder.stages = (_Stage * stages)(*found), stages

    def _convolution(
        self, layer: nn.Conv2d, side: int, order: Tensor | slice = slice(None)
    ) -> LinearMap:
        """Weights [out, in, h, w] as a linear map of [h, w, in]; outputs in another order."""
        assert layer.bias is not None
        self._work += side**2 * layer.weight.numel()
        weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
        return self._weights.linear(weight[order], layer.bias[order])


def _count(end: int) -> Tensor:
    """0..end-1, int64."""
    return torch.arange(end, dtype=torch.int64, device="cpu")
