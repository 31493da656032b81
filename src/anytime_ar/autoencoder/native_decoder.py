"""Decode codes to images in one call into the native kernel, `image_decoder.cpp`."""

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
from anytime_ar.autoencoder.networks import ImageDecoder, ImageResidualBlock
from anytime_ar.autoencoder.tokenizer import Tokenizer
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
from anytime_ar.runtime.tensors import BoundToProcess
from anytime_ar.runtime.torch_modes import default_torch_modes

_MAX_CODEBOOK_NUMBERS = 2**26
"""Largest table of codebook vectors, in numbers. A large `fsq` grid exceeds it, and is cheaper
to compute."""
_LAYOUT_CODES = {ProjectionLayout: 0, ChannelLayout: 1, SpatialLayout: 2, ResidualVQLayout: 3}
"""Values of the kernel's enum `Layout`, by layout class."""
_MIN_WORK_FOR_THREADS = 2**25
"""Multiplications from which on images are shared among threads."""


class _ResidualBlockStruct(ctypes.Structure):
    """The struct `ResidualBlock` of abi.h: the two convolutions of a block."""

    _fields_ = (("conv1", LinearMap), ("conv2", LinearMap))


class _StageStruct(ctypes.Structure):
    """The struct `Stage` of abi.h: the layers of one resolution."""

    _fields_ = (
        ("block", ctypes.POINTER(_ResidualBlockStruct)),
        ("blocks", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("up", LinearMap),
    )


class _ImageDecoderStruct(ctypes.Structure):
    """The struct `ImageDecoder` of abi.h: the decoder of an autoencoder."""

    _fields_ = (
        ("code_length", ctypes.c_int64),
        ("code_width", ctypes.c_int64),
        ("vocabulary", ctypes.c_int64),
        ("layout", ctypes.c_int64),
        ("entries", ctypes.c_void_p),
        ("fill", ctypes.c_void_p),
        ("linear", LinearMap),
        ("mlp_in", LinearMap),
        ("mlp_out", LinearMap),
        ("permutation", ctypes.c_void_p),
        ("features", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("first", LinearMap),
        ("stage", ctypes.POINTER(_StageStruct)),
        ("stages", ctypes.c_int64),
        ("last", LinearMap),
        ("patch", ctypes.c_int64),
    )


def make_decode_fn(
    autoencoder: Tokenizer,
    backend: Literal["auto", "native", "portable"] = "auto",
    autotuner: Autotuner | None = None,
) -> Callable[[Tensor], Tensor]:
    """Return a function that decodes codes with the native kernel or with the tokenizer itself.

    The tokenizer decodes on devices other than CPUs, without a kernel, and for networks that the
    kernel does not implement.

    Args:
        autoencoder: tokenizer in evaluation mode; its weights must not change any more.
        backend: `native` for the kernel where it is available, `portable` for the tokenizer
            itself, `auto` for the faster one on this machine, as timed at the first use.
        autotuner: stores the results of timing; None: in the cache folder.
    """
    if not isinstance(autoencoder, OrderedAutoencoder):
        return autoencoder.decode
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
    builders: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        "native": lambda: NativeImageDecoder(autoencoder),
        "portable": lambda: autoencoder.decode,
    }
    if backend == "native":
        return builders["native"]()
    shape = autoencoder.config.model_dump_json(include={"layout", "code_width", "network"})
    key = f"decode of {shape} {autoencoder.code_length} to {autoencoder.sample_shape}"

    def candidate(name: str) -> Implementation:
        def prepare() -> Callable[[int], object]:
            decode = builders[name]()
            codes = torch.zeros(1, autoencoder.code_length, dtype=torch.int64, device="cpu")
            return lambda rows: decode(codes.expand(rows, -1))

        return Implementation(name, prepare)

    return builders[(autotuner or Autotuner()).fastest(key, [*map(candidate, builders)])]()


class NativeImageDecoder(BoundToProcess):
    """`OrderedAutoencoder.decode` in the native kernel, equal up to rounding.

    The bits of a row do not depend on the other rows of its batch.

    Args:
        autoencoder: a convolutional one for images, on the CPU.

    Raises:
        BuildError: there is no kernel on this machine.
    """

    @default_torch_modes()
    def __init__(self, autoencoder: OrderedAutoencoder) -> None:
        """Pack the weights of the decoder for the kernel."""
        check_struct_sizes(
            Linear=LinearMap,
            ResidualBlock=_ResidualBlockStruct,
            Stage=_StageStruct,
            ImageDecoder=_ImageDecoderStruct,
        )
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._run = kernel_library().anytime_decode_images
        self._run.argtypes = [pointer, pointer, number, number, pointer, number]
        self._run.restype = number
        self._length, self._vocabulary = autoencoder.code_length, autoencoder.vocabulary
        self._sample_shape = autoencoder.sample_shape
        self._weights = PackedWeights("float32")
        self._work = 0  # multiplications for one image
        self._decoder = self._pack(autoencoder)
        self._address = ctypes.addressof(self._decoder)

    def __call__(self, codes: Tensor) -> Tensor:
        """Decode a prefix of codes; see `OrderedAutoencoder.decode`.

        Args:
            codes: int64 [B, k], 1 <= k <= L.

        Returns:
            float32 [B, C, H, W] in [-1, 1].

        Raises:
            InputError: the prefix is empty or longer than L, or a code is outside 0..V-1.
            MemoryError: the kernel has no room for its working memory.
        """
        check_prefix(codes, code_length=self._length)
        rows, kept = codes.shape
        # A copy: another thread may write to the caller's codes, or move them to shared memory.
        codes = codes.clone(memory_format=torch.contiguous_format)
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
        """Pack the codebooks, the layout and the networks of an autoencoder."""
        layout, network = autoencoder.layout, autoencoder.decoder
        assert isinstance(network, ImageDecoder)
        height, width = network.config.map_shape(autoencoder.sample_shape)
        entries = autoencoder.codebook_vectors()  # [L, V, D]
        length, code_width = self._length, autoencoder.code_width
        decoder = _ImageDecoderStruct(
            code_length=length,
            code_width=code_width,
            vocabulary=self._vocabulary,
            layout=_LAYOUT_CODES[type(layout)],
            entries=self._weights.keep_alive(entries, length, self._vocabulary, code_width),
            fill=self._weights.keep_alive(autoencoder.fill, length, code_width),
            features=layout.features,
            height=height,
            width=width,
            patch=network.config.patch,
        )
        if isinstance(layout, ProjectionLayout):
            self._pack_projection(decoder, layout, height * width)
        if isinstance(layout, ResidualVQLayout):
            decoder.permutation = self._weights.keep_alive(
                layout.permutation, height * width, dtype=torch.int64
            )
        self._pack_network(decoder, network)
        return decoder

    def _pack_projection(
        self, decoder: _ImageDecoderStruct, layout: ProjectionLayout, positions: int
    ) -> None:
        """Pack the linear maps of a projection layout."""

        def by_position(linear: nn.Module) -> LinearMap:
            """Pack a linear map with its outputs [F, h, w] reordered to [h, w, F]."""
            assert isinstance(linear, nn.Linear)
            order = _arange(linear.out_features).view(layout.features, positions).T.flatten()
            return self._weights.pack_linear(linear.weight[order], linear.bias[order])

        decoder.linear = by_position(layout.expand.linear)
        if layout.expand.mlp is not None:
            first, _, last = layout.expand.mlp
            assert isinstance(first, nn.Linear)
            decoder.mlp_in = self._weights.pack_linear(first.weight, first.bias)
            decoder.mlp_out = by_position(last)

    def _pack_network(self, decoder: _ImageDecoderStruct, network: ImageDecoder) -> None:
        """Pack the convolutions of the decoder network, stage by stage."""
        stages = len(network.config.widths)
        first, *rest = network.layers
        assert isinstance(first, nn.Conv2d)
        positions, width = decoder.height * decoder.width, first.out_channels
        decoder.first = self._pack_convolution(first, positions)
        found: list[_StageStruct] = []
        blocks: list[_ResidualBlockStruct] = []
        for layer in rest:
            if isinstance(layer, ImageResidualBlock):
                convolutions = layer.conv1, layer.conv2
                blocks.append(
                    _ResidualBlockStruct(
                        *(self._pack_convolution(c, positions) for c in convolutions)
                    )
                )
            elif isinstance(layer, nn.Conv2d):
                found.append(
                    _StageStruct((_ResidualBlockStruct * len(blocks))(*blocks), len(blocks), width)
                )
                if len(found) == stages:
                    decoder.last = self._pack_convolution(layer, positions)
                else:
                    # The order of a pixel shuffle [channels, 2, 2] becomes [2, 2, channels].
                    order = _arange(layer.out_channels).view(-1, 4).T.flatten()
                    found[-1].up = self._pack_convolution(layer, positions, order)
                    blocks, width, positions = [], layer.out_channels // 4, 4 * positions
        decoder.stage, decoder.stages = (_StageStruct * stages)(*found), stages

    def _pack_convolution(
        self, layer: nn.Conv2d, positions: int, output_order: Tensor | slice = slice(None)
    ) -> LinearMap:
        """Pack convolution weights [out, in, h, w] as a linear map of [h, w, in].

        Args:
            layer: the convolution.
            positions: number of positions of its output.
            output_order: indices of the outputs, in the order to pack them.
        """
        assert layer.bias is not None
        self._work += positions * layer.weight.numel()
        weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
        return self._weights.pack_linear(weight[output_order], layer.bias[output_order])


def _arange(end: int) -> Tensor:
    """Return the integers 0..end-1 as int64."""
    return torch.arange(end, dtype=torch.int64, device="cpu")
