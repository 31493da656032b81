"""Which instruction sets a processor has, and which one is used."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
import torch

from anytime_ar.errors import InputError
from anytime_ar.kernel import instruction_sets as instructions
from anytime_ar.kernel.instruction_sets import (
    available_instruction_sets,
    cpu_features,
    select_instruction_set,
)

SSE = {"sse3": True, "ssse3": True, "sse4_1": True, "sse4_2": True, "popcnt": True}
AVX2 = {**SSE, **dict.fromkeys(("avx", "avx2", "bmi", "bmi2", "f16c", "fma3", "lzcnt"), True)}
AVX512 = {**AVX2, **{f"avx512_{part}": True for part in ("f", "cd", "dq", "bw", "vl")}}
VNNI = {**AVX512, "avx512_vnni": True}
LINUX = """\
processor : 0
flags     : fpu pni ssse3 sse4_1 sse4_2 popcnt avx avx2 bmi1 bmi2 f16c fma abm avx512f avx512cd \
avx512dq avx512bw avx512vl avx512_vnni
"""


def pretend(
    monkeypatch: pytest.MonkeyPatch, machine: str, capabilities: dict[str, object], **env: str
) -> None:
    """Put another processor in place of this one."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.delenv("ANYTIME_KERNEL_ISA", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("machine", "capabilities", "expected"),
    [
        ("x86_64", SSE, "sse"),
        ("x86_64", AVX2, "avx2"),
        ("AMD64", AVX512, "avx512"),
        ("x86_64", VNNI, "avx512vnni"),
        ("x86_64", {**VNNI, "avx512_bf16": True}, "avx512bf16"),
        ("x86_64", {**AVX512, "avx512_bf16": True}, "avx512"),  # each set contains those before it
        ("x86_64", {**VNNI, "avx512_vl": False}, "avx2"),
        ("x86_64", {"sse2": True, "l2_cache_size": 1}, None),
        ("aarch64", {"neon": True}, "neon"),
        ("arm64", {"neon": True, "dot": True}, "dotprod"),
        ("riscv64", {}, "generic"),
    ],
)
def test_the_best_instruction_set(
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    capabilities: dict[str, object],
    expected: str | None,
) -> None:
    pretend(monkeypatch, machine, capabilities)
    chosen = select_instruction_set()
    assert (None if chosen is None else chosen.name) == expected


def test_macs_with_arm_processors_have_products_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "arm64", {})
    monkeypatch.setattr(sys, "platform", "darwin")
    assert [isa.name for isa in available_instruction_sets("aarch64", cpu_features())] == [
        "neon",
        "dotprod",
    ]


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (LINUX, "avx512vnni"),
        ("Features : fp asimd asimddp\n", "dotprod"),
        (None, "sse"),  # not Linux
    ],
)
def test_an_older_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpuinfo: str | None, expected: str
) -> None:
    pretend(monkeypatch, "aarch64" if expected == "dotprod" else "x86_64", {})
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(instructions, "Path", lambda _name: tmp_path / "cpuinfo")
    chosen = select_instruction_set()
    assert chosen is not None
    assert chosen.name == expected


def test_a_lower_instruction_set_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "x86_64", VNNI, ANYTIME_KERNEL_ISA="avx2")
    chosen = select_instruction_set()
    assert chosen is not None
    assert chosen.name == "avx2"
    assert {"-mavx2", "-mfma"} <= set(chosen.flags)
    assert not [flag for flag in chosen.flags if "512" in flag]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("avx512", "this processor cannot run it"), ("mmx", "there is no such instruction set")],
)
def test_one_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, name: str, problem: str) -> None:
    pretend(monkeypatch, "x86_64", AVX2, ANYTIME_KERNEL_ISA=name)
    with pytest.raises(InputError, match=rf"ISA={name}: {problem}; choose .*\(sse, avx2\)"):
        select_instruction_set()
