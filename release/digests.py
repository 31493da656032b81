"""Compare results of the kernel between instruction sets and compilers: `make digests`.

Each build runs `digests.cpp`; builds for aarch64 run under `qemu-aarch64` (Debian: qemu-user). One
line shows the digests of a build. `*` marks a digest that differs from the first build that has to
equal it. The exit status is 1 if any digest does.

All builds agree except two. `sse` has no fused multiply-add, so it rounds products and sums
separately. The bfloat16 instruction of `avx512bf16` has its own order and rounding of the sum of a
pair.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kernels import ZIG, copy_sources, run_compiler

from anytime_ar.kernel import cpu_architecture
from anytime_ar.kernel.build import FLAGS, find_compiler
from anytime_ar.kernel.instruction_sets import (
    INSTRUCTION_SETS,
    InstructionSet,
    available_instruction_sets,
    cpu_features,
)

DRIVER = Path(__file__).with_name("digests.cpp")
"""C++ program that prints the digests of the kernel's functions."""
Digests = dict[str, str]
"""The digest of each function, by its name."""


def build(compiler: tuple[str, ...], isa: InstructionSet, sources: Path, program: Path) -> None:
    """Compile driver and kernel for an instruction set into a static program.

    Args:
        compiler: command of the compiler.
        isa: instruction set to compile for.
        sources: folder with the C++ files.
        program: path of the program to write.
    """
    objects = []
    for unit in sorted(unit.name for unit in sources.glob("*.cpp")):
        objects.append(f"{program}-{unit}.o")
        options = (*FLAGS, *isa.flags, "-Wno-psabi", "-c", "-o", objects[-1])
        run_compiler((*compiler, *options, unit), sources)
    run_compiler((*compiler, "-Os", "-static", "-pthread", "-o", str(program), *objects), sources)


def digests(program: Path, kind: str) -> Digests:
    """Run a program and return the digest of each function that it names.

    Args:
        program: path of the program.
        kind: CPU architecture of the program, which is emulated if it is not that of this machine.
    """
    emulator = () if kind == cpu_architecture() else (f"qemu-{kind}", "-cpu", "max")
    done = subprocess.run([*emulator, program], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{program.name} failed with exit status {done.returncode}: {done.stderr}")
    return dict(line.split() for line in done.stdout.splitlines())


def table(found: dict[str, Digests]) -> tuple[str, bool]:
    """Return the digests by build as text, and whether all agree that have to."""
    lines = [f"{'':24}" + "".join(f"{name:<19}" for name in next(iter(found.values())))]
    expected: dict[tuple[str, str], str] = {}
    equal = True
    for build_name, by_name in found.items():
        isa = build_name.split(",")[0]
        columns = []
        for name, value in by_name.items():
            alone = isa == "sse" or (isa == "avx512bf16" and name == "step-bfloat16")
            agrees = value == expected.setdefault((isa if alone else "", name), value)
            equal &= agrees
            columns.append(f"{value + ' *' * (not agrees):<19}")
        lines.append(f"{build_name:<24}" + "".join(columns))
    return "\n".join(line.rstrip() for line in lines), equal


def main() -> None:
    """Build and run all instruction sets that this machine can run or emulate."""
    here = {isa.name for isa in available_instruction_sets(cpu_architecture(), cpu_features())}
    runnable = [
        isa
        for isa in INSTRUCTION_SETS
        if isa.name in here
        or (isa.architecture != cpu_architecture() and shutil.which(f"qemu-{isa.architecture}"))
    ]
    builds = [
        (f"{isa.name}, zig", (*ZIG, "-target", f"{isa.architecture}-linux-musl"), isa)
        for isa in runnable
    ]
    local = find_compiler()
    if local is not None and platform.system() == "Linux":
        builds += [
            (f"{isa.name}, {Path(local.command[0]).name}", local.command, isa)
            for isa in runnable
            if isa.name in here
        ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = Path(folder) / "sources"
        copy_sources(sources, DRIVER)
        programs = [Path(folder) / f"program{number}" for number in range(len(builds))]
        jobs = zip(builds, programs, strict=True)
        list(pool.map(lambda job: build(job[0][1], job[0][2], sources, job[1]), jobs))
        found = {
            name: digests(program, isa.architecture)
            for (name, _, isa), program in zip(builds, programs, strict=True)
        }
    text, equal = table(found)
    print(text)
    sys.exit(not equal)


if __name__ == "__main__":
    main()
