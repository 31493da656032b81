"""Cross-compile the kernel into the package, for all platforms and their instruction sets.

    python release/kernels.py                 # all platforms: `make kernels`
    python release/kernels.py linux-x86_64    # some of them

The compiler is Zig's Clang from the Python package `ziglang`, which includes the C libraries of all
these platforms. The same sources and the same version of it give the same files, byte for byte.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from anytime_ar.kernel.build import FLAGS, checksummed_path, kernel_sources
from anytime_ar.kernel.instruction_sets import INSTRUCTION_SETS, InstructionSet
from anytime_ar.kernel.loading import PREBUILT, prebuilt_path

TARGETS = {
    "linux-x86_64": "x86_64-linux-gnu.2.17",
    "linux-aarch64": "aarch64-linux-gnu.2.17",
    "macos-x86_64": "x86_64-macos.10.15",
    "macos-aarch64": "aarch64-macos.11.0",
    "windows-x86_64": "x86_64-windows-gnu",
    "windows-aarch64": "aarch64-windows-gnu",
}
"""Zig's target by platform; Linux targets use the oldest C library that Python wheels allow."""
ZIG = (sys.executable, "-m", "ziglang", "c++")
"""Command that runs the compiler."""


def build(platform: str, isa: InstructionSet, sources: Path) -> Path:
    """Cross-compile one kernel into the package and return its file.

    Args:
        platform: one of `TARGETS`.
        isa: an instruction set of the platform's CPU architecture.
        sources: folder with the C++ files.
    """
    target, zig = prebuilt_path(isa, platform), (*ZIG, "-target", TARGETS[platform])
    units = sorted(unit.name for unit in sources.glob("*.cpp"))
    with tempfile.TemporaryDirectory() as folder:
        objects = [f"{folder}/{unit}.o" for unit in units]
        for unit, compiled in zip(units, objects, strict=True):
            run_compiler((*zig, *FLAGS, *isa.flags, "-c", "-o", compiled, unit), sources)
        # Link without the options of the instruction set, so that Zig compiles its C++ library
        # once for each platform, and for any processor.
        options = ("-Os", "-s", "-shared", "-pthread", "-Wl,--gc-sections")
        # Pass the name without its folder, because libraries of macOS store the output path.
        run_compiler((*zig, *options, "-o", target.name, *objects), Path(folder))
        content = (Path(folder) / target.name).read_bytes()
        target = checksummed_path(target, content)
        target.write_bytes(content)
    return target


def run_compiler(command: tuple[str, ...], folder: Path) -> None:
    """Run a compiler in a folder, and exit with its messages if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def copy_sources(folder: Path, *more: Path) -> None:
    """Write the C++ files of the kernel, and further files, into a new folder."""
    folder.mkdir()
    for name, source in kernel_sources().items():
        (folder / name).write_bytes(source)
    for path in more:
        shutil.copy(path, folder)


def main(platforms: list[str]) -> None:
    """Build all kernels of some platforms, and remove all earlier ones.

    Args:
        platforms: names of platforms; empty: all of `TARGETS`.
    """
    if unknown := set(platforms) - TARGETS.keys():
        sys.exit(f"unknown platform {min(unknown)}; choose among {', '.join(TARGETS)}")
    PREBUILT.mkdir(exist_ok=True)
    for old in PREBUILT.iterdir():
        old.unlink()
    wanted = [
        (platform, isa)
        for platform in platforms or TARGETS
        for isa in INSTRUCTION_SETS
        if platform.endswith(f"-{isa.architecture}")
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = Path(folder) / "sources"
        copy_sources(sources, Path(__file__).with_name("no_demangler.cpp"))
        built = list(pool.map(lambda pair: build(*pair, sources), wanted))
    for path in built:
        print(f"{path.stat().st_size:>8}  {path.name}")
    print(f"{len(built)} kernels by ziglang {version('ziglang')}")


if __name__ == "__main__":
    main(sys.argv[1:])
