"""The kernel gets the memory that it takes it for, or nothing."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.kernel import (
    BuildError,
    LinearMap,
    PackedWeights,
    check_struct_sizes,
    checked_data_ptr,
    load_kernel,
)

try:
    load_kernel()
except BuildError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 4, dtype=torch.float64),
        torch.zeros(3, 4, dtype=torch.bfloat16),
        torch.zeros(4, 3),
        torch.zeros(12),
        torch.zeros(4, 3).T,
        torch.zeros(3, 8)[:, ::2],
        torch.zeros(1, 4).expand(3, 4),
        torch.zeros(3, 4, device="meta"),
        torch.zeros(3, 4).to_sparse(),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device} {tensor.layout}",
)
def test_other_memory_is_refused(tensor: Tensor) -> None:
    with pytest.raises(InputError, match=r"the kernel takes contiguous torch.float32 \[3, 4\]"):
        checked_data_ptr(tensor, torch.float32, 3, 4)


def test_what_fits_is_where_it_is() -> None:
    tensor = torch.zeros(3, 4)
    assert checked_data_ptr(tensor, torch.float32, 3, 4) == tensor.data_ptr()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_other_formats_are_converted(precision: str, dtype: torch.dtype) -> None:
    weights = PackedWeights(precision)  # type: ignore[arg-type]
    found = weights.pack_linear(torch.ones(5, 7, dtype=dtype), torch.arange(5).to(dtype))
    bias = ctypes.cast(found.bias, ctypes.POINTER(ctypes.c_float))
    assert [bias[i] for i in range(5)] == [0, 1, 2, 3, 4]


def test_structures_of_another_size_are_refused() -> None:
    check_struct_sizes(Linear=LinearMap)

    class Short(ctypes.Structure):
        _fields_ = LinearMap._fields_[:-1]

    with pytest.raises(BuildError, match="Linear takes 48 bytes in the kernel and 40 here"):
        check_struct_sizes(Linear=Short)


MISUSE = """
import torch
from anytime_ar.errors import InputError
from anytime_ar.prior import NativePriorDecoder, Prior, PriorConfig
prior = Prior(PriorConfig(layers=1, width=16, heads=2), 4, 8).eval()
decoder, other = NativePriorDecoder(prior), NativePriorDecoder(prior)
full = decoder.allocate(2)
full.positions[:2] = [4, 4]
for misuse in (
    lambda: decoder.step(other.allocate(2), 1),
    lambda: decoder.step(decoder.allocate(2), 3),
    lambda: decoder.step(full, 1),
):
    try:
        misuse()
    except InputError as error:
        print(error)
"""


def test_misuse_is_refused_without_assertions_too() -> None:
    command = [sys.executable, "-O", "-W", "ignore", "-c", MISUSE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 3


EXHAUSTED = """
import resource, torch
from anytime_ar.prior import NativePriorDecoder, Prior, PriorConfig
torch.set_num_threads(THREADS)
prior = Prior(PriorConfig(layers=1, width=64, heads=2), 2, 2**15).eval()
decoder = NativePriorDecoder(prior)
rows = decoder.allocate(4096)
decoder.logits(rows, 1)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**24, resource.RLIM_INFINITY))
for call in (
    lambda: decoder.step(rows, 4096),  # its logits alone take 512 MiB
    lambda: decoder.matmul_only(4096),  # as much, by the threads that share the rows
):
    try:
        call()
    except MemoryError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")
@pytest.mark.parametrize("threads", [1, 2])
def test_no_room_for_working_memory_is_an_error(threads: int) -> None:
    program = EXHAUSTED.replace("THREADS", str(threads))
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("the kernel found no room for its working memory") == 2
