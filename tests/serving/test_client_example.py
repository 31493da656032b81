"""The example of the Python client runs against a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from real_server import RealServer

EXAMPLE = Path(__file__).parents[2] / "examples/http_client.py"


def test_the_example_asks_for_samples_within_a_deadline(server: RealServer) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), server.url], capture_output=True, text=True, check=True
    )
    assert " codes, 4 samples, " in done.stdout
