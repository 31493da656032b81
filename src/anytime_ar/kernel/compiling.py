"""Compile the kernel on this machine, once: the result is kept in the user's cache folder.

The kernel is plain C++ without PyTorch's headers, and compiles in seconds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path

from anytime_ar.files import cache_folder, process_folder
from anytime_ar.kernel.instructions import InstructionSet

FLAGS = (
    "-O3",
    "-std=c++17",
    # A compiler must not fuse a multiplication with an addition where the source does not: then
    # the results depend on the instruction set alone.
    "-ffp-contract=off",
    # These two change no result: no caller looks at errno or at floating-point traps.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-pthread",
    "-fPIC",
)
"""Options that every build of the kernel has, beside those of its instruction set."""


class BuildError(Exception):
    """The kernel cannot be had on this machine; says why."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command that calls it, and what it calls itself."""

    command: tuple[str, ...]
    version: str


def kernel_sources() -> dict[str, bytes]:
    """Return the C++ files of the kernel by name."""
    folder = resources.files("anytime_ar.kernel")
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name: file.read_bytes() for file in files if file.name.endswith((".h", ".cpp"))}


def find_compiler() -> Compiler | None:
    """Return the C++ compiler of this machine: $CXX, c++, g++, clang++, or the one in the Python
    package `ziglang`; None if there is none."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return Compiler((found,), _version(found))
    if importlib.util.find_spec("ziglang") is not None:
        command = (sys.executable, "-m", "ziglang", "c++")
        return Compiler(command, f"zig c++ {metadata.version('ziglang')}")
    return None


@cache
def _version(command: str) -> str:
    """Return the first line of what a compiler says about itself, or else its name."""
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or [Path(command).name])[0]


def compile_kernel(isa: InstructionSet) -> tuple[Path, Compiler]:
    """Compile the kernel for an instruction set, unless that was done; return its file and the
    compiler. Where the cache folder cannot be written to, the file lasts as long as this process.

    Raises:
        BuildError: there is no C++ compiler, or it does not compile the kernel.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BuildError(
            "no C++ compiler is there; install g++ or clang++, or name one in $CXX, or "
            "`pip install ziglang`"
        )
    sources = kernel_sources()
    for folder in (cache_folder, process_folder):
        try:
            target = folder() / "native" / f"{_key(compiler, isa, sources)}.so"
            if not target.exists():
                _compile(compiler, isa, sources, target)
            return target, compiler
        except OSError as error:
            problem = f"cannot write the kernel: {error}"
    raise BuildError(problem)


def _key(compiler: Compiler, isa: InstructionSet, sources: dict[str, bytes]) -> str:
    """Digest what the compiled kernel depends on: sources, options and compiler."""
    digest = hashlib.sha256(b"".join(sources.values()))
    digest.update(" ".join([compiler.version, isa.machine, *FLAGS, *isa.flags]).encode())
    return digest.hexdigest()[:24]


def _compile(
    compiler: Compiler, isa: InstructionSet, sources: dict[str, bytes], target: Path
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for name, source in sources.items():
            (Path(folder) / name).write_bytes(source)
        units = [name for name in sources if name.endswith(".cpp")]
        command = [*compiler.command, *FLAGS, *isa.flags, "-shared", "-o", "kernel.so", *units]
        # Perhaps nothing else may be written to.
        places = {"TMPDIR": folder, "ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, **places},
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line]
            raise BuildError(f"{compiler.command[0]} failed: {(lines or ['no error message'])[0]}")
        (Path(folder) / "kernel.so").replace(target)  # whole or not at all, also of two processes
