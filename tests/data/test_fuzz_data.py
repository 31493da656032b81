"""A few of the inputs of `benchmarks/fuzz_data.py`, which makes as many as one likes."""

from __future__ import annotations

from collections import Counter

import pytest
from fuzz_data import READERS, attempt


@pytest.mark.parametrize("reader", READERS)
def test_hostile_input_is_read_rightly_or_refused_in_one_line(reader: str) -> None:
    outcomes = Counter(attempt(reader, seed) for seed in range(60))
    assert outcomes["read"] >= 10
    assert outcomes["refused"] >= 10
