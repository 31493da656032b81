"""A few of the surroundings of `benchmarks/fuzz_environment.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caches import make_cache_with_kernel

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_environment.py"
COUNT = 8


@pytest.fixture(scope="module")
def violations(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the script found wrong with that many commands, by their numbers."""
    out = tmp_path_factory.mktemp("fuzz")
    # `own_cache` comes too late for this fixture, and a home that is none would mean to compile.
    cache = {"XDG_CACHE_HOME": str(make_cache_with_kernel(out))}
    command = [sys.executable, SCRIPT, "--count", str(COUNT), "--seed", "0", "--out", out]
    done = subprocess.run(
        command, env=os.environ | cache, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    report = json.loads((out / "fuzz_environment.json").read_text(encoding="utf-8"))
    assert sum(report["counts"].values()) == COUNT
    found: list[str] = report["violations"]
    assert (done.returncode == 1) == bool(found)
    return found


@pytest.mark.parametrize("number", range(COUNT))
def test_a_command_ends_as_documented_wherever_it_runs(number: int, violations: list[str]) -> None:
    assert [told for told in violations if told.startswith(f"{number}: ")] == []
