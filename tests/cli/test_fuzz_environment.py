"""A few of the surroundings of `benchmarks/fuzz_environment.py`."""

from __future__ import annotations

import pytest
from fuzz_environment import VIOLATION, run_case


@pytest.mark.parametrize("number", range(8))
def test_a_command_ends_as_documented_wherever_it_runs(number: int) -> None:
    answer, told = run_case(0, number)
    assert answer != VIOLATION, told
