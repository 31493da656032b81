"""The kernel of every instruction set: the same bits wherever multiply-add is fused."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import pytest

from anytime_ar.kernel import (
    BuildError,
    available_instruction_sets,
    cpu_architecture,
    cpu_features,
    load_kernel,
)

try:
    BEST = load_kernel().instruction_set
except BuildError as error:
    pytest.skip(str(error), allow_module_level=True)
FUSED = ("avx2", "avx512", "avx512vnni", "avx512bf16", "neon", "dotprod")
HERE = [isa.name for isa in available_instruction_sets(cpu_architecture(), cpu_features())]
# Each one is compiled where none is prebuilt: the lowest and the highest of each width.
LOWER = [name for name in HERE if name in ("sse", "avx2", "avx512", "neon") and name != BEST]

PROGRAM = """
from hashlib import sha256
import torch
from anytime_ar.kernel import load_kernel
from anytime_ar.sampling import load

torch.set_num_threads(1)
print(load_kernel().instruction_set)
for precision in ("float32", "int8"):
    model = load("mnist", precision=precision, backend="native")
    codes = model.sample_codes(100, seed=0, guidance=1.5, top_p=0.95)
    for result in (codes, model.decode(codes)):
        print(sha256(result.numpy().tobytes()).hexdigest())
print(*codes[:, 0].tolist())
"""


@cache
def drawn_with(name: str) -> list[str]:
    """What the program prints with an instruction set."""
    held = os.environ | {"ANYTIME_KERNEL_ISA": name}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=held, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", LOWER)
def test_codes_and_pictures_do_not_depend_on_the_instruction_set(name: str) -> None:
    ours, *found, first_codes = drawn_with(name)
    assert ours == name
    *expected, expected_codes = drawn_with(BEST)[1:]
    if name in FUSED:
        assert found == expected
    else:  # sums are rounded otherwise, so now and then a code differs
        pairs = zip(first_codes.split(), expected_codes.split(), strict=True)
        assert sum(a == b for a, b in pairs) > 95
