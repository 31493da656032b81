"""Pictures by our own kernel: equal to the network, and a row's bits are its own."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from importlib import resources
from typing import Any

import pytest
import torch
from torch import Tensor

from anytime_ar.autoencoder import (
    AutoencoderConfig,
    NativeImageDecoder,
    OrderedAutoencoder,
    make_decode_fn,
    native_decoder,
)
from anytime_ar.errors import InputError
from anytime_ar.kernel import BuildError, kernel_library

try:
    kernel_library()
except BuildError as error:
    pytest.skip(str(error), allow_module_level=True)

# one resolution and three, no, one and two blocks, odd widths, patches, layouts, quantizers, fills
KINDS: dict[str, dict[str, Any]] = {
    "projection": {
        "code_length": 5,
        "code_width": 3,
        "quantizer": {"vocabulary": 6},
        "network": {"patch": 2, "widths": [20, 33], "blocks": 1, "hidden": 40},
    },
    "flat": {
        "code_length": 7,
        "code_width": 2,
        "quantizer": {"vocabulary": 5, "shared_codebook": True},
        "fill": "zeros",
        "network": {"patch": 1, "widths": [8], "blocks": 0, "hidden": 0},
    },
    "channel": {
        "layout": "channel",
        "code_length": 6,
        "quantizer": {"vocabulary": 4},
        "network": {"patch": 1, "widths": [6, 17, 40], "blocks": 2},
    },
    "residual_vq": {
        "layout": "residual_vq",
        "scan_order": "bayer",
        "code_length": 48,
        "code_width": 5,
        "quantizer": {"vocabulary": 6},
        "network": {"patch": 2, "widths": [8, 12], "blocks": 1},
    },
    "spatial": {
        "layout": "spatial",
        "quantizer": {"kind": "fsq", "levels": [3, 4]},
        "network": {"patch": 4, "widths": [16], "blocks": 2},
    },
}


def build(kind: str, channels: int = 3, width: int = 16) -> OrderedAutoencoder:
    config = AutoencoderConfig.parse(KINDS[kind], origin="test")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OrderedAutoencoder(config, (channels, 16, width)).eval()
        with torch.no_grad():  # fill and residual branches away from zero
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
            if "codebooks" in dict(model.quantizer.named_buffers()):
                model.quantizer.get_buffer("codebooks").normal_()
    return model


def some_codes(model: OrderedAutoencoder, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.vocabulary, (n, model.code_length), generator=generator)


@pytest.mark.parametrize(("channels", "width"), [(1, 16), (3, 16), (4, 24), (1, 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_network_for_every_prefix(kind: str, channels: int, width: int) -> None:
    model = build(kind, channels, width)
    codes, decode = some_codes(model, 3), NativeImageDecoder(model)
    for k in range(1, model.code_length + 1):
        expected = model.decode(codes[:, :k])
        assert expected.std() > 0.05
        torch.testing.assert_close(decode(codes[:, :k]), expected, atol=2e-5, rtol=1e-4)
    assert (decode(codes[:, :1]) - expected).abs().max() > 0.05  # codes matter


@pytest.mark.parametrize("kind", KINDS)
def test_its_work_is_the_multiplications_of_all_convolutions(kind: str) -> None:
    model, counted = build(kind), list[int]()

    def count(layer: torch.nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(layer, torch.nn.Conv2d)
        counted.append(output[0, 0].numel() * layer.weight.numel())

    for layer in model.decoder.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    model.decode(some_codes(model, 1))
    assert NativeImageDecoder(model)._work == sum(counted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_gets_the_same_bits_in_any_batch(kind: str) -> None:
    model = build(kind)
    codes, decode = some_codes(model, 33), NativeImageDecoder(model)
    whole = decode(codes)
    for n in (1, 2, 7, 9):
        assert torch.equal(decode(codes[:n]), whole[:n])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            many = codes.repeat(200, 1)
            assert torch.equal(decode(many)[-33:], whole)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0, 6]], "code 6 at row 0, position 1 is out of range"),
        ([[0], [-1]], "code -1 at row 1, position 0"),
        ([[0] * 6], "prefix 6 exceeds code length 5"),
        ([[]], "prefix 0 holds no code"),
    ],
)
def test_bad_codes_are_refused(codes: list[list[int]], message: str) -> None:
    decode = NativeImageDecoder(build("projection"))
    with pytest.raises(InputError, match=message):
        decode(torch.tensor(codes, dtype=torch.int64))
    with pytest.raises(InputError, match="codes are torch"):
        decode(torch.zeros(1, 2))


def test_what_the_kernel_does_not_know_decodes_itself() -> None:
    config = {"code_length": 4, "code_width": 2, "quantizer": {"vocabulary": 4}}
    linear = OrderedAutoencoder(
        AutoencoderConfig.parse({**config, "layout": "linear"}, origin="test"),
        (1, 8, 8),
    )
    assert make_decode_fn(linear) == linear.decode
    model = build("projection")
    assert make_decode_fn(model, "portable") == model.decode
    assert isinstance(make_decode_fn(model, "native"), NativeImageDecoder)


THREADED = """
import os, threading
import torch
from anytime_ar.autoencoder import NativeImageDecoder
from anytime_ar.sampling import load

torch.set_num_threads(2)
decode = NativeImageDecoder(load("mnist").autoencoder)
codes = torch.randint(32, (200, 16))
expected = decode(codes)
found = [None] * 4

def call(i):
    found[i] = decode(codes)

callers = [threading.Thread(target=call, args=(i,)) for i in range(len(found))]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
assert all(torch.equal(one, expected) for one in found)
child = os.fork()
if child == 0:  # has none of the threads that its parent's kernel started; nor those of PyTorch
    os._exit(0 if (decode(codes).numpy() == expected.numpy()).all() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.equal(decode(codes), expected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_threads_are_shared_by_callers_and_started_anew_in_a_fork() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", THREADED], check=True, timeout=300)


@pytest.mark.parametrize(
    "mirror",
    [
        native_decoder._ResidualBlockStruct,
        native_decoder._StageStruct,
        native_decoder._ImageDecoderStruct,
    ],
)
def test_structs_have_the_fields_of_the_kernel(mirror: type[ctypes.Structure]) -> None:
    header = (resources.files("anytime_ar") / "kernel" / "abi.h").read_text(encoding="utf-8")
    name = mirror.__name__.removeprefix("_").removesuffix("Struct")
    body = header.partition(f"struct {name} {{")[2].partition("};")[0]
    declarations = re.sub(r"//.*", "", body).split(";")
    names = [re.findall(r"(\w+)(?=,|$)", one.strip()) for one in declarations]
    assert [field for field, *_ in mirror._fields_] == [field for one in names for field in one]
