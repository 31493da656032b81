"""Deadlines on a fake clock."""

from __future__ import annotations

from typing import Any

import pytest
from deadlines import DeadlineResult, deadline_table, measure_deadlines

from anytime_ar.errors import InputError
from fake_clock import FakeClock


class FakeModel:
    """Draws a code in 10 ms and decodes in 5, unless a deadline ends it earlier."""

    code_length = 6

    def __init__(self, *, late_by: float = 0.0) -> None:
        self.clock, self.late_by = FakeClock(0.0), late_by

    def warm_up(self, n: int) -> None:
        assert n == 2

    def min_deadline_s(self, n: int) -> float:
        assert n == 2
        return 0.016

    def generate(self, n: int, **options: Any) -> Any:
        assert n == 2
        deadline_s = options.get("deadline_s")
        codes = 0
        while codes < self.code_length:
            if codes > 0 and "cancel" in options:
                options["cancel"].is_set()
            if deadline_s is not None and 0.010 * (codes + 1) + 0.005 > deadline_s:
                break
            codes += 1
            self.clock.now += 0.010
        self.clock.now += 0.005 + (self.late_by if deadline_s else 0)

        class Result:
            codes_drawn = codes

        return Result


def test_deadlines() -> None:
    model = FakeModel()
    records = measure_deadlines(
        model,  # type: ignore[arg-type]
        n=2,
        deadlines=3,
        draws=30,
        clock=model.clock,
    )
    assert [round(record.deadline_s, 4) for record in records] == [0.0163, 0.0407, 0.065]
    assert [record.misses for record in records] == [0, 0, 0]
    assert [record.to_json()["codes"] for record in records] == [1, 3, 6]
    assert [record.utilisation for record in records] == [1, 1, 1]
    assert records[1].quantile(0.5) == pytest.approx(0.035 / 0.0407, rel=1e-3)
    assert "missed" in deadline_table(records)


def test_late_draws_are_counted() -> None:
    model = FakeModel(late_by=0.010)
    records = measure_deadlines(
        model,  # type: ignore[arg-type]
        n=2,
        deadlines=2,
        draws=20,
        clock=model.clock,
    )
    assert [record.misses for record in records] == [20, 20]
    assert records[0].to_json()["finish_fraction_max"] > 1
    with pytest.raises(InputError, match="deadlines=1 and draws=5 measure nothing"):
        measure_deadlines(model, deadlines=1, draws=5)  # type: ignore[arg-type]


def test_a_record() -> None:
    record = DeadlineResult(0.1, [0.5, 0.9, 1.1, 0.7], [4, 4, 5, 3], [5, 5, 5, 5])
    assert (record.misses, record.utilisation) == (1, 0.8)
    assert record.quantile(0.0) == 0.5
    assert record.quantile(1.0) == 1.1
