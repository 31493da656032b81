"""The choice between ways of computing something: by times, preferred ones first, and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from anytime_ar.kernel.autotune import BATCH_SIZES, Autotuner, Implementation, machine_key
from anytime_ar.prior import (
    NativePriorDecoder,
    Prior,
    PriorConfig,
    TorchPriorDecoder,
    make_prior_decoder,
)


class Clock:
    """Stands still but for what candidates take."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.runs: dict[str, list[int]] = {}

    def __call__(self) -> float:
        return self.now_s

    def candidate(self, name: str, seconds: Callable[[int], float]) -> Implementation:
        """A candidate that takes so long for a number of rows."""

        def run(rows: int) -> None:
            self.runs.setdefault(name, []).append(rows)
            self.now_s += seconds(rows)

        return Implementation(name, lambda: run)


def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on as a process that has decided nothing yet."""
    monkeypatch.setattr("anytime_ar.kernel.autotune._results", {})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def calibration(tmp_path: Path, clock: Clock) -> Autotuner:
    return Autotuner(tmp_path / "cache" / "calibration.json", clock)


def test_the_fastest_over_all_numbers_of_rows_is_chosen(
    calibration: Autotuner, clock: Clock
) -> None:
    ours = clock.candidate("ours", lambda rows: 1e-3 * rows)
    quick_alone = clock.candidate("quick alone", lambda rows: 0.9e-3 if rows == 1 else 2e-3 * rows)
    assert calibration.fastest("a", [quick_alone, ours]) == "ours"
    plain = clock.candidate("plain", lambda rows: 0.5e-3 * rows)
    assert calibration.fastest("a", [ours, plain]) == "plain"


@pytest.mark.parametrize(("share", "chosen"), [(0.95, "preferred"), (0.85, "other")])
def test_nearly_as_fast_is_fast_enough_for_what_is_preferred(
    calibration: Autotuner, clock: Clock, share: float, chosen: str
) -> None:
    preferred = clock.candidate("preferred", lambda _rows: 1e-3)
    other = clock.candidate("other", lambda _rows: share * 1e-3)
    assert calibration.fastest("a", [preferred, other]) == chosen


def test_what_is_far_slower_is_given_up_at_once(calibration: Autotuner, clock: Clock) -> None:
    quick = clock.candidate("quick", lambda _rows: 1e-3)
    slow = clock.candidate("slow", lambda _rows: 1.0)
    assert calibration.fastest("a", [slow, quick]) == "quick"
    assert clock.runs["slow"] == [1, 1]
    assert set(clock.runs["quick"]) == set(BATCH_SIZES)


def test_decisions_are_kept_for_the_same_machine_and_question(
    calibration: Autotuner, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache" / "calibration.json"
    first = [clock.candidate("a", lambda _rows: 2e-3), clock.candidate("b", lambda _rows: 1e-3)]
    assert calibration.fastest("x", first) == "b"
    now = [clock.candidate("a", lambda _rows: 1e-3), clock.candidate("b", lambda _rows: 2e-3)]
    another_process(monkeypatch)
    assert Autotuner(path, clock).fastest("x", now) == "b"
    assert calibration.fastest("y", now) == "a"
    (key,) = [key for key in json.loads(path.read_text()) if "/x/" in key]
    assert key.startswith(machine_key())
    monkeypatch.setattr("anytime_ar.kernel.autotune.machine_key", lambda: "another machine")
    assert calibration.fastest("x", now) == "a"


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"chosen": "b"}}', "\x00"])
def test_a_damaged_file_is_replaced(
    calibration: Autotuner, clock: Clock, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = calibration._store.path
    path.parent.mkdir()
    path.write_text(text)
    ways = [clock.candidate("a", lambda _rows: 2e-3), clock.candidate("b", lambda _rows: 1e-3)]
    assert calibration.fastest("x", ways) == "b"
    another_process(monkeypatch)
    quick = [clock.candidate(name, lambda _rows: 1e-3) for name in "ab"]
    assert Autotuner(path, clock).fastest("x", quick) == "b"


@pytest.mark.parametrize("place", ["file/calibration.json", "folder/calibration.json"])
def test_where_nothing_can_be_written_a_process_decides_once(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "folder" / "calibration.json").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    ways = [clock.candidate("a", lambda _rows: 2e-3), clock.candidate("b", lambda _rows: 1e-3)]
    now = [clock.candidate("a", lambda _rows: 1e-3), clock.candidate("b", lambda _rows: 2e-3)]
    assert Autotuner(tmp_path / place, clock).fastest("x", ways) == "b"
    runs = len(clock.runs["a"])
    monkeypatch.chdir(tmp_path)
    assert Autotuner(Path(place), clock).fastest("x", now) == "b", "kept in memory"
    assert len(clock.runs["a"]) == runs
    assert Autotuner(Path("elsewhere"), clock).fastest("x", now) == "a", "of this file alone"
    assert Autotuner(tmp_path / place, clock).fastest("y", now) == "a"


def test_a_process_keeps_to_what_it_has_found(clock: Clock, calibration: Autotuner) -> None:
    ways = [clock.candidate("a", lambda _rows: 2e-3), clock.candidate("b", lambda _rows: 1e-3)]
    now = [clock.candidate("a", lambda _rows: 1e-3), clock.candidate("b", lambda _rows: 2e-3)]
    assert calibration.fastest("x", ways) == "b"
    calibration._store.path.unlink()
    assert calibration.fastest("x", now) == "b"


@pytest.mark.parametrize("theirs", ["a", "no longer there"])
def test_the_decision_that_is_in_the_file_first_holds(
    calibration: Autotuner, clock: Clock, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    path = calibration._store.path
    ways = [clock.candidate("a", lambda _rows: 2e-3), clock.candidate("b", lambda _rows: 1e-3)]

    def meanwhile(_rows: int) -> float:
        """Another process starts and ends while this one measures."""
        with monkeypatch.context() as other:
            another_process(other)
            quick = [clock.candidate(name, lambda _rows: 1e-3) for name in "ab"]
            assert Autotuner(path, clock).fastest("x", quick) == "a"
        if theirs != "a":  # and damages what it leaves
            path.write_text(path.read_text().replace('"chosen": "a"', f'"chosen": "{theirs}"'))
        return 2e-3

    ours = [clock.candidate("a", meanwhile), ways[1]]
    assert calibration.fastest("x", ours) == ("a" if theirs == "a" else "b")
    another_process(monkeypatch)
    third = [clock.candidate("a", lambda _rows: 2e-3), clock.candidate("b", lambda _rows: 2e-3)]
    assert calibration.fastest("x", third) == ("a" if theirs == "a" else "b")


def test_decisions_of_another_version_are_left_alone(calibration: Autotuner, clock: Clock) -> None:
    path = calibration._store.path
    path.parent.mkdir()
    theirs = {"chosen": "c", "seconds": {}, "novelty": [1]}
    path.write_text(json.dumps({"theirs": theirs, "endless": {"chosen": "b", "seconds": 1e999}}))
    ways = [clock.candidate("a", lambda _rows: 2e-3), clock.candidate("b", lambda _rows: 1e-3)]
    assert calibration.fastest("x", ways) == "b"
    written = json.loads(path.read_text())
    assert written["theirs"] == theirs
    assert len(written) == 2


class Decided(Autotuner):
    """Chooses what it is told to, and keeps what it was asked."""

    def __init__(self, name: str) -> None:
        self.name, self.asked = name, [""]

    def fastest(self, key: str, candidates: object) -> str:  # noqa: ARG002
        assert isinstance(candidates, list)
        self.asked = [candidate.name for candidate in candidates]
        for candidate in candidates:
            run = candidate.prepare()
            run(3), run(3)
        return self.name


@pytest.mark.filterwarnings("default")
def test_a_decoder_is_what_was_found_to_be_fastest() -> None:
    prior = Prior(PriorConfig(layers=1, width=16, heads=2), 6, 5, 3).eval()
    found = make_prior_decoder(prior, autotuner=(decided := Decided("portable float32")))
    assert isinstance(found, TorchPriorDecoder)
    assert decided.asked[-1] == "portable float32"
    found = make_prior_decoder(prior, "auto", "portable", Decided("portable int8"))
    assert (type(found), found.precision) == (TorchPriorDecoder, "int8")
    if "native float32" in decided.asked:
        decided = Decided("native int8")
        found = make_prior_decoder(prior, "auto", autotuner=decided)
        assert (type(found), found.precision) == (NativePriorDecoder, "int8")
        assert len(decided.asked) == 6
        assert decided.asked[0] == "native float32"
    assert torch.isfinite(found.logits(found.allocate(1), 1)).all()
