"""From codes to pictures in one call into our own kernel, `picture.cpp`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from anytime_ar.autoencoder.layouts import (
    ChannelLayout,
    ProjectionLayout,
    ResidualVQLayout,
    SpatialLayout,
)
from anytime_ar.autoencoder.model import OrderedAutoencoder
from anytime_ar.autoencoder.networks.image import ImageDecoder, ImageResidualBlock
from anytime_ar.codes import check_codes, check_prefix
from anytime_ar.kernel import (
    UNKNOWN_CODE,
    BuildError,
    LinearMap,
    PackedWeights,
    check_status,
    check_struct_sizes,
    checked_data_ptr,
    kernel_library,
)
from anytime_ar.kernel.autotune import Autotuner, Implementation
from anytime_ar.runtime.torch_modes import default_torch_modes

_MAX_CODEBOOK_NUMBERS = 2**26
"""Numbers in the table of all entries: those of a large grid of `fsq` are better computed."""
_LAYOUT_CODES = {ProjectionLayout: 0, ChannelLayout: 1, SpatialLayout: 2, ResidualVQLayout: 3}
_MIN_WORK_FOR_THREADS = 2**25
"""Multiplications from which on pictures are shared among threads."""


class _ResidualBlockStruct(ctypes.Structure):
    _fields_ = (("spread", LinearMap), ("mix", LinearMap))


class _StageStruct(ctypes.Structure):
    _fields_ = (
        ("block", ctypes.POINTER(_ResidualBlockStruct)),
        ("blocks", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("up", LinearMap),
    )


class _ImageDecoderStruct(ctypes.Structure):
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
        ("stage", ctypes.POINTER(_StageStruct)),
        ("stages", ctypes.c_int64),
        ("last", LinearMap),
        ("patch", ctypes.c_int64),
    )


def make_decode_fn(
    autoencoder: OrderedAutoencoder,
    backend: Literal["auto", "native", "portable"] = "auto",
    autotuner: Autotuner | None = None,
) -> Callable[[Tensor], Tensor]:
    """Return the way to decode: our own kernel, or the autoencoder itself where the kernel does not
    know its network, for other devices, and without a kernel.

    Args:
        autoencoder: in evaluation mode; its weights must not change any more.
        backend: `native` for the kernel where it can be had, `portable` for the autoencoder itself,
            `auto` for the faster one on this machine, as timed at the first use.
        autotuner: where decisions are kept; None: in the cache folder.
    """
    layout = type(autoencoder.layout) in _LAYOUT_CODES and autoencoder.linear_skip is None
    entries = autoencoder.code_length * autoencoder.vocabulary * autoencoder.code_width
    known = (
        isinstance(autoencoder.decoder, ImageDecoder)
        and layout
        and entries <= _MAX_CODEBOOK_NUMBERS
    )
    if backend == "portable" or not known or autoencoder.fill.device.type != "cpu":
        return autoencoder.decode
    try:
        kernel_library()
    except BuildError:
        return autoencoder.decode
    ways: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        "native": lambda: NativeImageDecoder(autoencoder),
        "portable": lambda: autoencoder.decode,
    }
    if backend == "native":
        return ways["native"]()
    shape = autoencoder.config.model_dump_json(include={"layout", "code_width", "network"})
    key = f"decode of {shape} {autoencoder.code_length} to {autoencoder.sample_shape}"

    def candidate(name: str) -> Implementation:
        def prepare() -> Callable[[int], object]:
            decode = ways[name]()
            nothing = torch.zeros(1, autoencoder.code_length, dtype=torch.int64, device="cpu")
            return lambda rows: decode(nothing.expand(rows, -1))

        return Implementation(name, prepare)

    return ways[(autotuner or Autotuner()).fastest(key, [*map(candidate, ways)])]()


class NativeImageDecoder:
    """`OrderedAutoencoder.decode`, equal up to rounding; a row's bits do not depend on the others.

    Args:
        autoencoder: a convolutional one on the CPU.

    Raises:
        BuildError: there is no kernel on this machine.
    """

    @default_torch_modes()
    def __init__(self, autoencoder: OrderedAutoencoder) -> None:
        check_struct_sizes(
            Linear=LinearMap,
            Residual=_ResidualBlockStruct,
            Stage=_StageStruct,
            Decoder=_ImageDecoderStruct,
        )
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._run = kernel_library().anytime_decode
        self._run.argtypes = [pointer, pointer, number, number, pointer, number]
        self._run.restype = number
        self._length, self._vocabulary = autoencoder.code_length, autoencoder.vocabulary
        self._sample_shape = autoencoder.sample_shape
        self._weights = PackedWeights("float32")
        self._work = 0  # multiplications for one picture
        self._decoder = self._pack(autoencoder)
        self._address = ctypes.addressof(self._decoder)

    def __call__(self, codes: Tensor) -> Tensor:
        """See `OrderedAutoencoder.decode`."""
        check_prefix(codes, code_length=self._length)
        rows, kept = codes.shape
        codes = codes.contiguous()
        shape = rows, *self._sample_shape
        pixels = torch.empty(shape, dtype=torch.float32, device="cpu")
        threads = torch.get_num_threads() if rows * self._work >= _MIN_WORK_FOR_THREADS else 1
        source = checked_data_ptr(codes, torch.int64, rows, kept)
        target = checked_data_ptr(pixels, torch.float32, *shape)
        status = self._run(self._address, source, rows, kept, target, threads)
        check_status(status)
        if status == UNKNOWN_CODE:
            check_codes(codes, code_length=self._length, vocabulary=self._vocabulary)
        return pixels

    def _pack(self, autoencoder: OrderedAutoencoder) -> _ImageDecoderStruct:
        network, layout = autoencoder.config.network, autoencoder.layout
        assert network is not None
        side = autoencoder.sample_shape[1] // network.stride
        entries = autoencoder.codebook_vectors()  # [L, V, D]
        length, width = self._length, autoencoder.code_width
        decoder = _ImageDecoderStruct(
            code_length=length,
            code_width=width,
            vocabulary=self._vocabulary,
            layout=_LAYOUT_CODES[type(layout)],
            entries=self._weights.keep_alive(entries, length, self._vocabulary, width),
            fill=self._weights.keep_alive(autoencoder.fill, length, width),
            features=layout.features,
            side=side,
            patch=network.patch,
        )
        if isinstance(layout, ProjectionLayout):
            self._pack_projection(decoder, layout, side)
        if isinstance(layout, ResidualVQLayout):
            decoder.places = self._weights.keep_alive(
                layout.permutation, side**2, dtype=torch.int64
            )
        assert isinstance(autoencoder.decoder, ImageDecoder)
        self._pack_network(decoder, autoencoder.decoder, len(network.widths))
        return decoder

    def _pack_projection(
        self, decoder: _ImageDecoderStruct, layout: ProjectionLayout, side: int
    ) -> None:
        def by_position(linear: nn.Module) -> LinearMap:
            """Outputs [F, h, w] become [h, w, F]."""
            assert isinstance(linear, nn.Linear)
            order = _arange(linear.out_features).view(layout.features, side**2).T.flatten()
            return self._weights.pack_linear(linear.weight[order], linear.bias[order])

        decoder.line = by_position(layout.expand.linear)
        if layout.expand.mlp is not None:
            first, _, last = layout.expand.mlp
            assert isinstance(first, nn.Linear)
            decoder.bend = self._weights.pack_linear(first.weight, first.bias)
            decoder.unbend = by_position(last)

    def _pack_network(
        self, decoder: _ImageDecoderStruct, network: ImageDecoder, stages: int
    ) -> None:
        first, *rest = network.layers
        assert isinstance(first, nn.Conv2d)
        side, width = decoder.side, first.out_channels
        decoder.first = self._pack_convolution(first, side)
        found: list[_StageStruct] = []
        blocks: list[_ResidualBlockStruct] = []
        for layer in rest:
            if isinstance(layer, ImageResidualBlock):
                spread = self._pack_convolution(layer.conv1, side)
                blocks.append(
                    _ResidualBlockStruct(spread, self._pack_convolution(layer.conv2, side))
                )
            elif isinstance(layer, nn.Conv2d):
                found.append(
                    _StageStruct((_ResidualBlockStruct * len(blocks))(*blocks), len(blocks), width)
                )
                if len(found) == stages:
                    decoder.last = self._pack_convolution(layer, side)
                else:
                    # [channels, 2, 2], as a pixel shuffle reads outputs, becomes [2, 2, channels]
                    order = _arange(layer.out_channels).view(-1, 4).T.flatten()
                    found[-1].up = self._pack_convolution(layer, side, order)
                    blocks, width, side = [], layer.out_channels // 4, 2 * side
        decoder.stage, decoder.stages = (_StageStruct * stages)(*found), stages

    def _pack_convolution(
        self, layer: nn.Conv2d, side: int, output_order: Tensor | slice = slice(None)
    ) -> LinearMap:
        """Weights [out, in, h, w] as a linear map of [h, w, in]; outputs in another order."""
        assert layer.bias is not None
        self._work += side**2 * layer.weight.numel()
        weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
        return self._weights.pack_linear(weight[output_order], layer.bias[output_order])


def _arange(end: int) -> Tensor:
    """0..end-1, int64."""
    return torch.arange(end, dtype=torch.int64, device="cpu")
