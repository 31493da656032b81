"""Instruction sets that the kernel is built for, and those that this processor supports.

`ANYTIME_KERNEL_ISA` names one of them to use instead of the best.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from anytime_ar.errors import InputError

_ARCHITECTURE_ALIASES = {"AMD64": "x86_64", "arm64": "aarch64", "ARM64": "aarch64"}
"""Architecture names of operating systems, and the name used here."""
_FEATURE_ALIASES = {
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "fma3": "fma",
    "dot": "dotprod",
    "pni": "sse3",
    "bmi1": "bmi",
    "abm": "lzcnt",
    "asimddp": "dotprod",
}
"""Feature names of PyTorch and Linux that differ from those of compilers."""

_SSE = ("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt")
_AVX2 = (*_SSE, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt")
_AVX512 = (*_AVX2, "avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl")
_VNNI = (*_AVX512, "avx512vnni")


@dataclass(frozen=True)
class InstructionSet:
    """An instruction set that the kernel is compiled for.

    Attributes:
        name: its name, as in `ANYTIME_KERNEL_ISA`.
        architecture: `x86_64` or `aarch64`; "" for any other.
        required_features: features that the processor must support, as compilers spell them.
        flags: options of GCC, Clang and Zig that select it.
    """

    name: str
    architecture: str
    required_features: tuple[str, ...]
    flags: tuple[str, ...]


def _x86(name: str, required_features: tuple[str, ...]) -> InstructionSet:
    """Build an instruction set of x86-64 with the compiler options of its features."""
    # List the features, because GCC before version 11 does not know -march=x86-64-v3.
    wide = ("-mprefer-vector-width=512",) if "avx512f" in required_features else ()
    return InstructionSet(
        name,
        "x86_64",
        required_features,
        (*(f"-m{feature}" for feature in required_features), *wide),
    )


INSTRUCTION_SETS = (
    _x86("sse", _SSE),
    _x86("avx2", _AVX2),
    _x86("avx512", _AVX512),
    _x86("avx512vnni", _VNNI),
    _x86("avx512bf16", (*_VNNI, "avx512bf16")),
    # GCC, Clang and Zig share only the spelling -mcpu=generic+...
    InstructionSet("neon", "aarch64", (), ("-mcpu=generic",)),
    InstructionSet("dotprod", "aarch64", ("dotprod",), ("-mcpu=generic+dotprod",)),
    InstructionSet("generic", "", (), ()),
)
"""All instruction sets; those of one architecture come in order, the best last."""


def cpu_architecture() -> str:
    """Return the architecture of this processor: `x86_64`, `aarch64`, or the system's name."""
    name = platform.machine()
    return _ARCHITECTURE_ALIASES.get(name, name)


def cpu_name() -> str:
    """Return the name of this processor, or a more general one if it is not known."""
    name = platform.processor() or platform.machine()
    if hasattr(torch.cpu, "get_capabilities"):  # from version 2.11 on
        name = torch.cpu.get_capabilities().get("cpu_name") or name
    return name


def cpu_features() -> frozenset[str]:
    """Return the features that processor and operating system support, as compilers spell them."""
    if sys.platform == "darwin" and cpu_architecture() == "aarch64":
        return frozenset({"dotprod"})  # every Mac with this architecture has it
    if hasattr(torch.cpu, "get_capabilities"):  # from version 2.11 on
        found = {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    else:
        found = _linux_features(Path("/proc/cpuinfo")) or set(
            _SSE
        )  # in all x86 processors since 2009
    return frozenset(
        _FEATURE_ALIASES.get(name, name.replace("avx512_", "avx512")) for name in found
    )


def _linux_features(cpuinfo: Path) -> set[str]:
    """Return the features that Linux lists for the first processor; empty on other systems."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.partition(":")[2].split())
    return set()


def available_instruction_sets(
    architecture: str, features: Collection[str]
) -> tuple[InstructionSet, ...]:
    """Return the instruction sets that a processor supports, the best last.

    Args:
        architecture: of the processor, see `cpu_architecture`.
        features: of the processor, see `cpu_features`.
    """
    known = {isa.architecture for isa in INSTRUCTION_SETS}
    return tuple(
        isa
        for isa in INSTRUCTION_SETS
        if isa.architecture == (architecture if architecture in known else "")
        and set(isa.required_features) <= set(features)
    )


def select_instruction_set() -> InstructionSet | None:
    """Return the instruction set to use; None if this processor supports none.

    It is the one that `ANYTIME_KERNEL_ISA` names, or else the best.

    Raises:
        InputError: the named one is unknown, or this processor does not support it.
    """
    here = available_instruction_sets(cpu_architecture(), cpu_features())
    name = os.environ.get("ANYTIME_KERNEL_ISA")
    if not name:
        return here[-1] if here else None
    for isa in here:
        if isa.name == name:
            return isa
    known = name in {isa.name for isa in INSTRUCTION_SETS}
    problem = "this processor cannot run it" if known else "there is no such instruction set"
    names = ", ".join(isa.name for isa in here) or "none"
    raise InputError(
        f"ANYTIME_KERNEL_ISA={name}: {problem}; choose one that can be had here ({names}), or "
        "unset it for the best"
    )
