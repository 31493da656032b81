"""`anytime serve`, on a device that a test spoils while it runs.

    python spoiled_server.py DEVICE serve MODEL...

DEVICE is a folder. A step takes as many seconds as its file `step_s` says at the time, longer for
as long as that grows, and fails while it says `fails`. `steps` has a byte for each step. The file
`settings.json` has the name of the model whose steps these are, null for all models, and the
seconds after which an iteration counts as stalled.
"""

from __future__ import annotations

import json
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
SLOW_STEP_S = 0.002
"""Of the slow model, at least: all of its codes take 0.8 s, however fast the machine is."""


class Device:
    """The test's end of it.

    Args:
        folder: of the device, to make.
        step_s: that steps take at first.
        stall_timeout_s: after which an iteration counts as stalled.
        model: whose steps these are, by name; None: all models.
    """

    def __init__(
        self, folder: Path, step_s: float, *, stall_timeout_s: float, model: str | None = None
    ) -> None:
        folder.mkdir()
        self.folder = folder
        settings = {"model": model, "stall_timeout_s": stall_timeout_s}
        (folder / "settings.json").write_text(json.dumps(settings), encoding="ascii")
        (folder / "steps").touch()
        self.set(step_s)

    def set(self, step_s: float | str, *, then_held_from: int | None = None) -> None:
        """How long steps take from now on, or that they fail; held from that number on."""
        new = self.folder / "new"
        held = "" if then_held_from is None else f" {then_held_from}"
        new.write_text(f"{step_s}{held}", encoding="ascii")
        new.replace(self.folder / "step_s")

    @property
    def steps(self) -> int:
        """So far."""
        return (self.folder / "steps").stat().st_size


def slow_device(folder: Path) -> Device:
    """A device on which the steps of the slow model take a told time, and may be held."""
    return Device(folder, SLOW_STEP_S, stall_timeout_s=HELD_S, model="slow")


def spoil(runner: ModelRunner, folder: Path) -> None:
    """Let the steps of a runner go as the folder says."""
    decoder = runner.model.sampler.decoder
    real_step = decoder.step

    def step(rows: DecodeState[Any], count: int) -> None:
        with (folder / "steps").open("ab") as counted:
            counted.write(b".")
            number = counted.tell()
        begin = time.perf_counter()
        while True:
            told, *held_from = (folder / "step_s").read_text(encoding="ascii").split()
            if told == FAILS:
                raise RuntimeError("the device is gone")
            is_held = bool(held_from) and number >= int(held_from[0])
            left_s = begin + (HELD_S if is_held else float(told)) - time.perf_counter()
            if left_s <= 0:
                break
            time.sleep(min(left_s, 0.01))
        real_step(rows, count)

    decoder.step = step  # type: ignore[method-assign]


def run(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text(encoding="ascii"))
    real_init = ModelRunner.__init__

    def init(self: ModelRunner, *given: Any) -> None:
        real_init(self, *given)
        if settings["model"] in (None, self.name):
            spoil(self, folder)

    ModelRunner.__init__ = init  # type: ignore[method-assign]
    worker.STALL_TIMEOUT_S = settings["stall_timeout_s"]
    main()


if __name__ == "__main__":
    run(Path(sys.argv.pop(1)))
