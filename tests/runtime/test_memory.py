"""Memory that is kept."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from anytime_ar.runtime.devices import disable_memory_trimming

{first}
faults = []
for _ in range(24):  # the heap grows at first
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def faults(first: str) -> int:
    """Pages that the system had to give a process for a tensor as large as the one before."""
    program = [sys.executable, "-c", FAULTS.format(first=first)]
    return int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only there is anything to do")
def test_what_was_freed_is_used_again() -> None:
    assert faults("") > 10
    assert faults("disable_memory_trimming()") == 0
