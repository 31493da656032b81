"""The modules of `benchmarks/` are imported here alone, by the tests of these modules."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
