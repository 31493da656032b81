"""Requests that nobody would send on purpose; `benchmarks/fuzz_server.py` sends more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from real_server import RealServer

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_server.py"


def test_whatever_comes_the_server_answers_and_stays(server: RealServer) -> None:
    command = [sys.executable, SCRIPT, server.url, "--requests", "400", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(" requests; ")[0]) >= 400
    assert done.stdout.endswith("\nnothing wrong\n")
    assert server.process.poll() is None
    assert "internal" not in server.lines("error")
