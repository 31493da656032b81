"""Memory that is kept."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from anytime_ar.errors import InputError
from anytime_ar.runtime.memory import available_memory, check_memory

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


def test_available_memory_is_that_of_the_machine_or_its_control_groups(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal: 9000 kB\nMemAvailable: 800 kB\nSwapFree: 9 kB\n"
    )
    assert available_memory(tmp_path) == 809 * 1024
    (tmp_path / "proc/self/cgroup").write_text("0::/jobs/one\n")
    mount = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    (tmp_path / "proc/self/mountinfo").write_text(mount)
    group = tmp_path / "sys/fs/cgroup/jobs/one"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == 809 * 1024
    (group.parent / "memory.max").write_text("4096\n")
    assert available_memory(tmp_path) == 4096


def test_what_cannot_fit_is_refused() -> None:
    check_memory("x=1", 1)
    with pytest.raises(
        InputError, match=r"x=9 takes at least 1,048,576.0 GiB of memory, and .* are"
    ):
        check_memory("x=9", 2**50)
