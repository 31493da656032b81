"""Models side by side: areas by an independent quadrature, budgets that all can use, the files."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytime_ar.bundle.curve import Curve, CurvePoint, DistributionMetrics, near_lossless_codes
from anytime_ar.errors import InputError
from anytime_ar.evaluation import (
    Candidate,
    FixedLengthModels,
    compare,
    comparison_table,
    write_comparison,
)
from anytime_ar.evaluation.compare import fd_by_cost, mean_over_interval

QUALITY = DistributionMetrics(
    fd_stderr=0.5,
    kd=0.0,
    kd_stderr=0.0,
    precision=0.5,
    precision_stderr=0.0,
    recall=0.5,
    recall_stderr=0.0,
)


def curve_of(
    distances: list[float | None],
    *,
    bits: float = 5.0,
    ms: list[float | None] | None = None,
    samples: int = 1000,
) -> Curve:
    """One code after the other, of so many bits each; `ms` of each number of codes."""
    times = ms or [float(k) for k in range(1, len(distances) + 1)]
    points = tuple(
        CurvePoint(
            codes=k,
            bits=bits * k,
            mse=0.1,
            psnr=10.0,
            fd_reconstruction=1.0,
            fd_sample=value,
            sample_metrics=QUALITY,
            ms=time,
        )
        for k, (value, time) in enumerate(zip(distances, times, strict=True), 1)
    )
    return Curve(
        code_length=len(points),
        vocabulary=32,
        points=points,
        near_lossless_codes=near_lossless_codes(points),
        fd_train=0.5,
        num_train_samples=1000,
        num_samples=samples,
        num_test_samples=1000,
        seed=0,
    )


ORDERED = Candidate("ordered", curve_of([40.0, 20.0, 6.0, 4.0, 3.0, 3.5]))
UNORDERED = Candidate("unordered", curve_of([300.0, 250.0, 200.0, 100.0, 50.0, 2.0]))


def test_areas_are_those_of_a_fine_quadrature() -> None:
    points = [(1.0, 9.0), (2.5, 4.0), (2.5, 3.0), (7.0, 5.0), (8.0, 1.0)]
    for low, high in ((1.0, 8.0), (1.7, 6.1), (2.5, 7.5), (3.0, 3.5)):
        at = np.linspace(low, high, 200_001)
        heights = np.interp(at, [x for x, _ in points], [y for _, y in points])
        assert mean_over_interval(points, low, high) == pytest.approx(heights.mean(), rel=1e-4)


def test_standings_and_what_a_budget_buys() -> None:
    comparison = compare([ORDERED, UNORDERED])
    assert comparison.bits == (5.0, 30.0)
    assert comparison.ms == (1.0, 6.0)
    ordered, unordered = comparison.rankings
    assert ordered.mean_fd_over_bits == pytest.approx((20 + 20 + 6 + 4 + 3 + 3.5 / 2) / 5)
    assert ordered.mean_fd_over_ms == pytest.approx(ordered.mean_fd_over_bits)
    assert unordered.mean_fd_over_bits == pytest.approx((150 + 250 + 200 + 100 + 50 + 1) / 5)
    assert (ordered.best_fd, ordered.best_codes) == (3.0, 5)
    # Tenths of 30 bits, in whole codes of 5; nothing fits into 3 bits.
    assert [(place.budget, place.codes) for place in ordered.points] == [
        (pytest.approx(6), 1),
        (pytest.approx(9), 1),
        (pytest.approx(12), 2),
        (pytest.approx(15), 3),
        (pytest.approx(18), 3),
        (pytest.approx(24), 4),
        (pytest.approx(30), 6),
    ]
    assert [place.fd for place in ordered.points] == [40, 40, 20, 6, 6, 4, 3.5]
    assert {place.fd_error for place in ordered.points} == {0.5}


def test_budgets_are_those_that_all_models_can_use() -> None:
    wide = Candidate("wide", curve_of([30.0, 10.0, 5.0], bits=8.0, ms=[3.0, 4.0, 5.0]))
    comparison = compare([ORDERED, wide])
    assert comparison.bits == (8.0, 24.0)
    assert comparison.ms == (3.0, 5.0)
    first, second = comparison.rankings
    assert second.mean_fd_over_bits == pytest.approx((30 / 2 + 10 + 5 / 2) / 2)
    assert first.mean_fd_over_ms == pytest.approx((6 / 2 + 4 + 3 / 2) / 2)


def test_noise_of_the_clock_never_turns_time_back() -> None:
    curve = curve_of([9.0, 5.0, 4.0, 3.0], ms=[1.0, 2.0, 1.9, 2.5])
    assert [at for at, _ in fd_by_cost(curve, "ms")] == [1.0, 2.0, 2.0, 2.5]


def test_a_model_for_every_length_beside_models_for_one() -> None:
    dedicated = FixedLengthModels(
        "fixed", (curve_of([999.0, 999.0, 999.0, 2.0]), curve_of([99.0, 16.0]))
    )
    comparison = compare([ORDERED, UNORDERED], dedicated)
    assert [(m.bits, m.fixed_length_fd, m.fd, m.fd_ratio) for m in comparison.matches] == [
        (10.0, 16.0, 20.0, 1.25),
        (20.0, 2.0, 4.0, 2.0),
    ]


def test_time_that_was_not_measured_is_left_out() -> None:
    untimed = Candidate("untimed", curve_of([9.0, 8.0], ms=[None, None]))
    comparison = compare([ORDERED, untimed])
    assert comparison.ms is None
    assert [standing.mean_fd_over_ms for standing in comparison.rankings] == [None, None]
    assert "ms at batch" not in comparison_table(comparison)


@pytest.mark.parametrize(
    ("contenders", "message"),
    [
        ([ORDERED], "needs two models of different names, got ordered"),
        ([ORDERED, ORDERED], "got ordered, ordered"),
        ([ORDERED, Candidate("b", curve_of([2.0, None]))], "curve of b has no sample FD"),
        ([ORDERED, Candidate("b", curve_of([2.0, 1.0], samples=9))], "is of 1000 .* b of 9"),
        ([ORDERED, Candidate("b", curve_of([2.0], bits=40.0))], "no budget suits all models"),
    ],
)
def test_what_cannot_be_compared_is_named(contenders: list[Candidate], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(contenders)


def test_files_say_what_the_comparison_says(tmp_path: Path) -> None:
    dedicated = FixedLengthModels("fixed", (curve_of([99.0, 16.0]),))
    comparison = write_comparison([ORDERED, UNORDERED], dedicated, tmp_path / "new")
    written = json.loads((tmp_path / "new" / "comparison.json").read_text())
    assert type(comparison).model_validate(written) == comparison
    lines = (tmp_path / "new" / "comparison.md").read_text().splitlines()
    assert lines[0].startswith("| sample FD | 6 bits | 9 bits |")
    assert lines[2].startswith("| ordered | 40 ± 0.5 | 40 ± 0.5 | 20 ± 0.5 |")
    assert "(1.00x)" in lines[2]
    ratio = comparison.rankings[1].mean_fd_over_bits / comparison.rankings[0].mean_fd_over_bits
    assert f"({ratio:.2f}x)" in lines[3]
    assert lines[-1] == "| 10 | 16 | 20 | 1.25 |"
    picture = Image.open(io.BytesIO((tmp_path / "new" / "comparison.png").read_bytes()))
    assert picture.width > 1000


def test_the_table_fits_a_terminal() -> None:
    dedicated = FixedLengthModels("fixed", (curve_of([99.0, 16.0]),))
    large = Candidate("channel, paper", curve_of([123456.0] * 6))
    text = comparison_table(compare([ORDERED, large], dedicated))
    assert max(map(len, text.splitlines())) <= 80
    assert math.isclose(
        float(text.split("over bits")[1].split("channel, paper")[1].split()[0]), 1e5, rel_tol=0.5
    )
