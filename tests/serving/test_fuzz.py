"""Requests that nobody would send on purpose; `benchmarks/fuzz_server.py` sends more."""

from __future__ import annotations

import sys
from pathlib import Path

from real_server import RealServer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


def test_whatever_comes_the_server_answers_and_stays(server: RealServer) -> None:
    from fuzz_server import fuzz

    report = fuzz(server.url, requests=400, seed=1)
    assert report.requests >= 400
    assert report.violations == []
    assert server.process.poll() is None
    assert "internal" not in server.lines("error")
