"""Cases that take turns, on a fake clock."""

from __future__ import annotations

import pytest

from anytime_ar.errors import InputError
from anytime_ar.runtime.timing import BenchmarkCase, time_interleaved
from fake_clock import FakeClock


def test_contenders_take_turns_and_the_first_round_is_not_counted() -> None:
    clock, calls = FakeClock(0.0), []

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
