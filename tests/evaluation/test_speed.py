"""Taking turns, ratios within rounds, the table, and deadlines on a fake clock."""

from __future__ import annotations

from typing import Any

import pytest

from anytime_ar.cli.bench import deadline_table, speed_table
from anytime_ar.errors import InputError
from anytime_ar.evaluation.deadlines import DeadlineResult, measure_deadlines
from anytime_ar.evaluation.speed import (
    BenchmarkCase,
    BenchmarkTiming,
    plot_times,
    time_interleaved,
    time_ratios,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_contenders_take_turns_and_the_first_round_is_not_counted() -> None:
    clock, calls = Clock(), []

    def contender(name: str, seconds: float) -> BenchmarkCase:
        def run(rows: int) -> None:
            calls.append((name, rows))
            first = len([call for call in calls if call == (name, rows)]) == 1
            clock.now += 100 if first else seconds * rows

        return BenchmarkCase(name, run)

    timings = time_interleaved(
        [contender("a", 1.0), contender("b", 2.0)], [1, 3], rounds=2, clock=clock
    )
    assert calls == [("a", 1), ("b", 1)] * 3 + [("a", 3), ("b", 3)] * 3
    assert [(t.name, t.batch_size, t.seconds) for t in timings] == [
        ("a", 1, (1.0, 1.0)),
        ("b", 1, (2.0, 2.0)),
        ("a", 3, (3.0, 3.0)),
        ("b", 3, (6.0, 6.0)),
    ]
    again = time_interleaved([contender("c", 1.0)], [1, 3], rounds=1, min_time_s=103.0, clock=clock)
    assert [len(timing.seconds) for timing in again] == [3, 1]  # after 100 s for the first
    with pytest.raises(InputError, match="rounds=0 times nothing"):
        time_interleaved([], [1], rounds=0)


def test_ratios_are_formed_within_rounds() -> None:
    """A machine that slows down slows both."""
    ours, theirs = (
        BenchmarkTiming("a", 1, (1.0, 5.0, 2.0)),
        BenchmarkTiming("b", 1, (2.0, 15.0, 5.0)),
    )
    assert time_ratios(theirs, ours) == (2.0, 2.5, 3.0)


def test_the_table_names_floor_and_rival() -> None:
    timings = [
        BenchmarkTiming("int8 native", 4, (1.0, 1.0)),
        BenchmarkTiming("float32 native", 4, (2.0, 2.0)),
        BenchmarkTiming("int8 native products only", 4, (0.8, 0.8)),
        BenchmarkTiming("int8 portable products only", 4, (0.5, 0.5)),
        BenchmarkTiming("float32 portable products only", 4, (0.8, 0.8)),
        BenchmarkTiming("generate float32 sdpa", 4, (8.0, 8.0)),
        BenchmarkTiming("generate bfloat16 sdpa", 4, (6.0, 6.0)),
    ]
    lines = speed_table(timings, length=10).splitlines()
    assert lines[0].split()[-2:] == ["floor", "generate"]
    assert lines[1].split() == ["4", "int8", "native", "40", "40..40", "50", "%", "6.00x"]
    assert lines[2].split() == ["4", "float32", "native", "20", "20..20", "40", "%", "3.00x"]
    assert lines[3].split()[-1] == "50..50"  # a floor has neither
    assert max(map(len, lines)) <= 80


def test_the_plot_is_a_picture() -> None:
    timings = [
        BenchmarkTiming(f"{k} codes", rows, (k * 0.1, k * 0.2)) for rows in (1, 4) for k in (1, 2)
    ]
    assert plot_times(timings).startswith(b"\x89PNG")


class FakeModel:
    """Draws a code in 10 ms and decodes in 5, unless a deadline ends it earlier."""

    code_length = 6

    def __init__(self, *, late_by: float = 0.0) -> None:
        self.clock, self.late_by = Clock(), late_by

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
