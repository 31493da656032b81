"""`anytime serve`, on a device that a test spoils while it runs.

    python spoiled_server.py DEVICE STALL_TIMEOUT_S serve MODEL...

DEVICE is a folder. A step takes as many seconds as its file `step_s` says at the time, longer for
as long as that grows, and fails while it says `fails`. `steps` has a byte for each step. An
iteration of more than STALL_TIMEOUT_S seconds counts as stalled.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from anytime_ar.cli import main
from anytime_ar.prior import DecodeState
from anytime_ar.serving.engine import worker
from anytime_ar.serving.engine.runner import ModelRunner

FAILS = "fails"
HELD_S = 3600.0
"""Of a step: until the test says otherwise."""


class Device:
    """The test's end of it."""

    def __init__(self, folder: Path, step_s: float, *, stall_timeout_s: float) -> None:
        folder.mkdir()
        self.folder, self.stall_timeout_s = folder, stall_timeout_s
        (folder / "steps").touch()
        self.set(step_s)

    def set(self, step_s: float | str) -> None:
        """How long steps take from now on, or that they fail."""
        new = self.folder / "new"
        new.write_text(str(step_s), encoding="ascii")
        new.replace(self.folder / "step_s")

    @property
    def steps(self) -> int:
        """So far."""
        return (self.folder / "steps").stat().st_size


def spoil(runner: ModelRunner, folder: Path) -> None:
    """Let the steps of a runner go as the folder says."""
    decoder = runner.model.sampler.decoder
    real_step = decoder.step

    def step(rows: DecodeState[Any], count: int) -> None:
        with (folder / "steps").open("ab") as counted:
            counted.write(b".")
        begin = time.perf_counter()
        while True:
            told = (folder / "step_s").read_text(encoding="ascii")
            if told == FAILS:
                raise RuntimeError("the device is gone")
            left_s = begin + float(told) - time.perf_counter()
            if left_s <= 0:
                break
            time.sleep(min(left_s, 0.01))
        real_step(rows, count)

    decoder.step = step  # type: ignore[method-assign]


def run(folder: Path, stall_timeout_s: float) -> None:
    real_init = ModelRunner.__init__

    def init(self: ModelRunner, *given: Any) -> None:
        real_init(self, *given)
        spoil(self, folder)

    ModelRunner.__init__ = init  # type: ignore[method-assign]
    worker.STALL_TIMEOUT_S = stall_timeout_s
    main()


if __name__ == "__main__":
    run(Path(sys.argv.pop(1)), float(sys.argv.pop(1)))
