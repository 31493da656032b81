"""Ratios within rounds, the table and the plot of speed."""

from __future__ import annotations

from speed import plot_times, speed_table, time_ratios

from anytime_ar.runtime.timing import BenchmarkTiming


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
