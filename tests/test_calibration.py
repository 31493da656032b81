"""The choice between ways of computing something: by times, preferred ones first, and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from anytime_ar.calibration import ROWS, Calibration, Candidate, machine_key
from anytime_ar.prior import NativeDecoder, PortableDecoder, Prior, PriorConfig, decoder_for


class Clock:
    """Stands still but for what candidates take."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.runs: dict[str, list[int]] = {}

    def __call__(self) -> float:
        return self.now_s

    def candidate(self, name: str, seconds: Callable[[int], float]) -> Candidate:
        """A candidate that takes so long for a number of rows."""

        def run(rows: int) -> None:
            self.runs.setdefault(name, []).append(rows)
            self.now_s += seconds(rows)

        return Candidate(name, lambda: run)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def calibration(tmp_path: Path, clock: Clock) -> Calibration:
    return Calibration(tmp_path / "cache" / "calibration.json", clock)


def test_the_fastest_over_all_numbers_of_rows_is_chosen(
    calibration: Calibration, clock: Clock
) -> None:
    ours = clock.candidate("ours", lambda rows: 1e-3 * rows)
    quick_alone = clock.candidate("quick alone", lambda rows: 0.9e-3 if rows == 1 else 2e-3 * rows)
    assert calibration.fastest("a", [quick_alone, ours]) == "ours"
    plain = clock.candidate("plain", lambda rows: 0.5e-3 * rows)
    assert calibration.fastest("a", [ours, plain]) == "plain"


@pytest.mark.parametrize(("share", "chosen"), [(0.95, "preferred"), (0.85, "other")])
def test_nearly_as_fast_is_fast_enough_for_what_is_preferred(
    calibration: Calibration, clock: Clock, share: float, chosen: str
) -> None:
    preferred = clock.candidate("preferred", lambda _rows: 1e-3)
    other = clock.candidate("other", lambda _rows: share * 1e-3)
    assert calibration.fastest("a", [preferred, other]) == chosen


def test_what_is_far_slower_is_given_up_at_once(calibration: Calibration, clock: Clock) -> None:
    quick = clock.candidate("quick", lambda _rows: 1e-3)
    slow = clock.candidate("slow", lambda _rows: 1.0)
    assert calibration.fastest("a", [slow, quick]) == "quick"
    assert clock.runs["slow"] == [1, 1]
    assert set(clock.runs["quick"]) == set(ROWS)


def test_decisions_are_kept_for_the_same_machine_and_question(
    calibration: Calibration, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache" / "calibration.json"
    first = [clock.candidate("a", lambda _rows: 2e-3), clock.candidate("b", lambda _rows: 1e-3)]
    assert calibration.fastest("x", first) == "b"
    now = [clock.candidate("a", lambda _rows: 1e-3), clock.candidate("b", lambda _rows: 2e-3)]
    assert Calibration(path, clock).fastest("x", now) == "b"
    assert calibration.fastest("y", now) == "a"
    (key,) = [key for key in json.loads(path.read_text()) if "/x/" in key]
    assert key.startswith(machine_key())
    monkeypatch.setattr("anytime_ar.calibration.machine_key", lambda: "another machine")
    assert calibration.fastest("x", now) == "a"


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"chosen": "b"}}', "\x00"])
def test_a_damaged_file_is_replaced(
    calibration: Calibration, clock: Clock, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "cache" / "calibration.json"
    path.parent.mkdir()
    path.write_text(text)
    ways = [clock.candidate("a", lambda _rows: 2e-3), clock.candidate("b", lambda _rows: 1e-3)]
    assert calibration.fastest("x", ways) == "b"
    assert len(json.loads(path.read_text())) == 1


def test_a_place_that_cannot_be_written_to(clock: Clock) -> None:
    ways = [clock.candidate("a", lambda _rows: 2e-3), clock.candidate("b", lambda _rows: 1e-3)]
    assert Calibration(Path("/dev/null/calibration.json"), clock).fastest("x", ways) == "b"


class Decided(Calibration):
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
    found = decoder_for(prior, calibration=(decided := Decided("portable float32")))
    assert isinstance(found, PortableDecoder)
    assert decided.asked[-1] == "portable float32"
    found = decoder_for(prior, "auto", "portable", Decided("portable int8"))
    assert (type(found), found.precision) == (PortableDecoder, "int8")
    if "native float32" in decided.asked:
        decided = Decided("native int8")
        found = decoder_for(prior, "auto", calibration=decided)
        assert (type(found), found.precision) == (NativeDecoder, "int8")
        assert len(decided.asked) == 6
        assert decided.asked[0] == "native float32"
    assert torch.isfinite(found.score(found.allocate(1), 1)).all()
