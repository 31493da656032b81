"""Our own kernel for CPUs: a step of the prior, and pictures from codes, each in one call."""

from __future__ import annotations

from anytime_ar.kernel.compiling import BuildError, Compiler, find_compiler
from anytime_ar.kernel.instructions import (
    available,
    machine,
    processor_features,
    processor_name,
)
from anytime_ar.kernel.loading import (
    Kernel,
    kernel,
    load_kernel,
    prebuilt_instructions,
    prebuilt_path,
)
from anytime_ar.kernel.memory import UNKNOWN_CODE, address, check_status, check_structures
from anytime_ar.kernel.weights import LinearMap, Weights, pad_up

__all__ = [
    "UNKNOWN_CODE",
    "BuildError",
    "Compiler",
    "Kernel",
    "LinearMap",
    "Weights",
    "address",
    "available",
    "check_status",
    "check_structures",
    "find_compiler",
    "kernel",
    "load_kernel",
    "machine",
    "pad_up",
    "prebuilt_instructions",
    "prebuilt_path",
    "processor_features",
    "processor_name",
]
