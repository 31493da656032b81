"""What the server expects a sample to take."""

from __future__ import annotations

import pytest

from anytime_ar.serving.engine.costs import BatchCostModel, LinearCost


def test_the_time_of_one_sample_is_this_machines() -> None:
    costs = BatchCostModel(LinearCost(0.001, 0.0005, 0.00001), LinearCost(0.002, 0.001, 0), 8)
    assert costs.sample_s(1, 4) == pytest.approx(4 * 0.0015 + 6 * 0.00001 + 0.003)
    assert costs.sample_s(2, 4) == pytest.approx(4 * 0.002 + 12 * 0.00001 + 0.003)
    for _ in range(3):
        costs.observe_step(1, 0, 10 * 0.0015)
        costs.observe_decode(1, 10 * 0.003)
    assert costs.sample_s(1, 4) == pytest.approx(10 * (4 * 0.0015 + 6 * 0.00001 + 0.003))
