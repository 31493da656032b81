"""Load the kernel: a prebuilt one from the package, or one compiled on this machine.

`ANYTIME_KERNEL` is `prebuilt` or `compiled` to allow only one of the two.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from anytime_ar.errors import InputError
from anytime_ar.kernel.build import BuildError, compile_kernel, find_intact, kernel_sources
from anytime_ar.kernel.instruction_sets import (
    INSTRUCTION_SETS,
    InstructionSet,
    available_instruction_sets,
    cpu_architecture,
    cpu_features,
    select_instruction_set,
)

PREBUILT = Path(__file__).parent / "prebuilt"
"""Folder of the prebuilt kernels; `make kernels` builds them."""
_SYSTEMS = {"darwin": "macos", "win32": "windows"}
"""Names of operating systems in file names, by `sys.platform`."""
_SUFFIXES = {"macos": "dylib", "windows": "dll"}
"""Suffixes of shared libraries, by operating system."""


@dataclass(frozen=True)
class Kernel:
    """The kernel as loaded into this process.

    Attributes:
        library: its functions.
        instruction_set: name of its instruction set.
        origin: `prebuilt`, or `compiled by` and the compiler; `compiled earlier` if the compiler is
            gone.
    """

    library: ctypes.CDLL
    instruction_set: str
    origin: str


def kernel_library() -> ctypes.CDLL:
    """Return the functions of the kernel; see `load_kernel`."""
    return load_kernel().library


@cache
def load_kernel() -> Kernel:
    """Load the kernel for the selected instruction set, once.

    Raises:
        BuildError: there is no prebuilt kernel for this machine, and none can be compiled.
        InputError: `ANYTIME_KERNEL` or `ANYTIME_KERNEL_ISA` has a value that cannot be met.
    """
    only = os.environ.get("ANYTIME_KERNEL") or None
    if only not in (None, "prebuilt", "compiled"):
        raise InputError(
            f"ANYTIME_KERNEL={only}: expected `prebuilt` or `compiled`; unset it for whichever "
            "can be had"
        )
    isa = select_instruction_set()
    if isa is None:
        raise BuildError("this processor has none of the instruction sets of the kernel")
    problem = None
    if only != "compiled":
        try:
            return Kernel(_load_prebuilt(isa), isa.name, "prebuilt")
        except BuildError as error:
            problem = error
    if only != "prebuilt":
        try:
            library, compiler = compile_kernel(isa)
            maker = "earlier" if compiler is None else f"by {compiler.version}"
            return Kernel(library, isa.name, f"compiled {maker}")
        except BuildError as error:
            problem = error
    if only != "compiled" and not os.environ.get("ANYTIME_KERNEL_ISA"):
        for lower in reversed(available_instruction_sets(cpu_architecture(), cpu_features())):
            with suppress(BuildError):  # the error of the best one is raised
                return Kernel(_load_prebuilt(lower), lower.name, "prebuilt")
    assert problem is not None
    if only == "compiled":
        raise BuildError(
            f"{problem}; ANYTIME_KERNEL=compiled excludes the prebuilt kernels: unset it to allow "
            "them"
        ) from problem
    raise problem


def prebuilt_path(isa: InstructionSet, platform: str | None = None) -> Path:
    """Return the path of a prebuilt kernel, without the digest of `checksummed_path`.

    Its name has a digest of the C++ files, so that a kernel of other sources is never loaded.

    Args:
        isa: its instruction set.
        platform: such as `linux-x86_64`; None: this machine's.
    """
    system, _, architecture = (platform or this_platform()).partition("-")
    digest = hashlib.sha256(b"".join(kernel_sources().values())).hexdigest()[:12]
    return PREBUILT / f"{system}-{architecture}-{isa.name}-{digest}.{_SUFFIXES.get(system, 'so')}"


def prebuilt_instruction_sets() -> list[str]:
    """Return the names of the instruction sets with a prebuilt kernel for this platform."""
    return [isa.name for isa in INSTRUCTION_SETS if find_intact(prebuilt_path(isa))]


def this_platform() -> str:
    """Return operating system and architecture of this machine, such as `linux-x86_64`."""
    return f"{_SYSTEMS.get(sys.platform, sys.platform)}-{cpu_architecture()}"


def _load_prebuilt(isa: InstructionSet) -> ctypes.CDLL:
    """Load a prebuilt kernel.

    Raises:
        BuildError: it is missing or damaged, or cannot be loaded.
    """
    path = find_intact(prebuilt_path(isa))
    if path is None:
        raise BuildError(
            f"no prebuilt kernel for {this_platform()} with {isa.name} is in this installation, or "
            "it is damaged; install a wheel of anytime-ar, or unset ANYTIME_KERNEL to compile it "
            "here"
        )
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:  # built for another C library, such as glibc instead of musl
        raise BuildError(
            f"cannot load the prebuilt kernel: {error}; unset ANYTIME_KERNEL to compile it here"
        ) from error
