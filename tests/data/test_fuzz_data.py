"""A few of the inputs of `benchmarks/fuzz_data.py`, which makes as many as one likes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_data.py"


@pytest.fixture(scope="module")
def told() -> str:
    """What the script prints about 60 inputs of each reader."""
    command = [sys.executable, SCRIPT, "--count", "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("reader", ["trees", "pictures", "sounds", "tables"])
def test_hostile_input_is_read_rightly_or_refused_in_one_line(reader: str, told: str) -> None:
    outcomes = re.search(rf"^{reader}: (\d+) read, (\d+) refused$", told, re.MULTILINE)
    assert outcomes is not None, told
    assert min(map(int, outcomes.groups())) >= 10
