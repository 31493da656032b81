"""Log of a training run: a JSON line per report, and a progress bar with losses and time left."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tqdm import tqdm

LogCallback = Callable[[dict[str, float | str]], None]
"""Function of a line of the log: figures by name, with `stage` and `step` where they have one."""


class RunLog:
    """A log that appends to a JSONL file and shows progress bars on standard error.

    Args:
        path: Path of the file; None: this process logs and shows nothing.
        show_progress: Whether to show progress bars.
        callbacks: Functions that are called with each line, unless `path` is None.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        show_progress: bool = True,
        callbacks: Sequence[LogCallback] = (),
    ) -> None:
        """Open the file of the log, and create it if there is none."""
        self._callbacks = callbacks if path is not None else ()
        target = Path(os.devnull) if path is None else path
        self._file = target.open("a", encoding="utf-8")
        # A service without a console has no standard error.
        self._is_active = path is not None and sys.stderr is not None
        self._show = show_progress and self._is_active

    def write(self, **figures: float | str) -> None:
        """Append a line of figures, with the wall-clock time in seconds added as `time`."""
        line = {"time": round(time.time(), 3)} | {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in figures.items()
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for callback in self._callbacks:
            callback(dict(line))

    def notify(self, message: str) -> None:
        """Log a message for the user and show it on standard error."""
        self.write(message=message)
        if self._is_active:
            tqdm.write(f"anytime: {message}", file=sys.stderr)

    @contextmanager
    def progress_bar(
        self, name: str, steps: int, begin: int
    ) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """Show a progress bar over the steps of a stage.

        Args:
            name: Name of the stage.
            steps: Total number of its steps.
            begin: Steps that are already done.

        Yields:
            A function that advances the bar to a step and shows the losses beside it.
        """
        with tqdm(
            total=steps, initial=begin, desc=name, disable=not self._show, dynamic_ncols=True
        ) as bar:

            def update(step: int, losses: dict[str, float]) -> None:
                shown = {loss: f"{value:.4f}" for loss, value in losses.items()}
                bar.set_postfix(shown, refresh=False)
                bar.update(step - bar.n)

            yield update

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file of the log."""
        self._file.close()
