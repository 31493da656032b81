"""The native kernel for CPUs: a step of the prior, or the decoding of images, in one call."""

from __future__ import annotations

from anytime_ar.kernel.abi import (
    UNKNOWN_CODE,
    LinearMap,
    PackedWeights,
    check_status,
    check_struct_sizes,
    checked_data_ptr,
    round_up,
)
from anytime_ar.kernel.build import BuildError, Compiler, find_compiler
from anytime_ar.kernel.instruction_sets import (
    available_instruction_sets,
    cpu_architecture,
    cpu_features,
    cpu_name,
)
from anytime_ar.kernel.loading import (
    Kernel,
    kernel_library,
    load_kernel,
    prebuilt_instruction_sets,
    prebuilt_path,
)

__all__ = [
    "UNKNOWN_CODE",
    "BuildError",
    "Compiler",
    "Kernel",
    "LinearMap",
    "PackedWeights",
    "available_instruction_sets",
    "check_status",
    "check_struct_sizes",
    "checked_data_ptr",
    "cpu_architecture",
    "cpu_features",
    "cpu_name",
    "find_compiler",
    "kernel_library",
    "load_kernel",
    "prebuilt_instruction_sets",
    "prebuilt_path",
    "round_up",
]
