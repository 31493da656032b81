"""Compiles the kernel for this machine, once: the result is kept in the user's cache folder.

The kernel is plain C++ without PyTorch's headers, and compiles in seconds. It is built on the
machine that runs it because the compiler then uses all that its processor can do.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path

from anytime_ar.files import cache_folder

_X86 = ("x86_64", "AMD64")


class BuildError(Exception):
    """The kernel cannot be had on this machine; says why."""


@cache
def kernel() -> ctypes.CDLL:
    """The kernel, compiled if it was not before.

    Raises:
        BuildError: there is no C++ compiler, it does not compile the kernel, or the system does not
            run programs from the cache folder.
    """
    compiler = _compiler()
    sources = _sources()
    target = cache_folder() / "native" / f"{_key(compiler, sources)}.so"
    if not target.exists():
        _compile(compiler, sources, target)
    try:
        return ctypes.CDLL(str(target))
    except OSError as error:  # a folder mounted with `noexec`, as `docker run --tmpfs` does
        raise BuildError(
            f"cannot load {error}; is $XDG_CACHE_HOME mounted with noexec? name another folder"
        ) from error


def _sources() -> dict[str, bytes]:
    """The kernel's files by name."""
    folder = resources.files("anytime_ar.kernel")
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name: file.read_bytes() for file in files if file.name.endswith((".h", ".cpp"))}


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise BuildError("no C++ compiler is there; install g++ or clang++, or name one in $CXX")


def _flags() -> list[str]:
    machine = ["-march=native", "-mprefer-vector-width=512"]
    if platform.machine() not in _X86:
        machine = ["-mcpu=native"]
    # Neither flag changes a result: no caller looks at errno or at floating-point traps.
    # The sources say which products and sums are fused; compilers that fuse more differ in bits.
    fused = ["-ffp-contract=off"]
    return [
        "-O3",
        *machine,
        "-std=c++17",
        *fused,
        "-fno-math-errno",
        "-fno-trapping-math",
        "-pthread",
    ]


def _key(compiler: str, sources: dict[str, bytes]) -> str:
    """What the compiled kernel depends on: sources, flags, compiler and processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    digest = hashlib.sha256(b"".join(sources.values()) + version + " ".join(_flags()).encode())
    digest.update(platform.machine().encode() + platform.processor().encode())
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():  # machines that share a home may have different processors
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
        digest.update("".join(sorted(set(features))).encode())
    return digest.hexdigest()[:24]


def _compile(compiler: str, sources: dict[str, bytes], target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            for name, source in sources.items():
                (Path(folder) / name).write_bytes(source)
            units = [str(Path(folder) / name) for name in sources if name.endswith(".cpp")]
            built = Path(folder) / "kernel.so"
            command = [compiler, *_flags(), "-shared", "-fPIC", "-o", str(built), *units]
            place = {**os.environ, "TMPDIR": folder}  # perhaps nothing else may be written to
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=place)
            if done.returncode != 0:
                lines = [line for line in done.stderr.splitlines() if "error" in line]
                raise BuildError(f"{compiler} failed: {(lines or ['no error message'])[0]}")
            built.replace(target)  # whole or not at all, also when two processes build
    except OSError as error:
        raise BuildError(f"cannot write {target}: {error.strerror}") from error
