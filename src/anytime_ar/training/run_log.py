"""What a run tells: a JSON line per report, and a progress bar with losses and time left."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from tqdm import tqdm


class RunLog:
    """Appends to a JSONL file; shows progress on standard error unless told not to.

    Args:
        path: of the file; None: this process tells nothing.
        show_progress: whether to draw bars.
    """

    def __init__(self, path: Path | None, *, show_progress: bool = True) -> None:
        place = Path(os.devnull) if path is None else path
        self._file = place.open("a", encoding="utf-8")
        # A service without a console has no standard error.
        self._is_active = path is not None and sys.stderr is not None
        self._show = show_progress and self._is_active

    def write(self, **figures: float | str) -> None:
        """One line, with the wall-clock time added."""
        line = {"time": round(time.time(), 3)} | {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in figures.items()
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def notify(self, message: str) -> None:
        """Something that whoever runs this should know."""
        self.write(message=message)
        if self._is_active:
            tqdm.write(f"anytime: {message}", file=sys.stderr)

    @contextmanager
    def progress_bar(self, name: str, steps: int, begin: int) -> Iterator[ProgressBar]:
        """A bar over the steps of a stage."""
        with tqdm(
            total=steps, initial=begin, desc=name, disable=not self._show, dynamic_ncols=True
        ) as bar:
            yield ProgressBar(bar)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


class ProgressBar:
    """The part of a tqdm bar that training uses."""

    def __init__(self, bar: tqdm[NoReturn]) -> None:
        self._bar = bar

    def update(self, step: int, losses: dict[str, float]) -> None:
        """Move to a step and show the losses."""
        self._bar.set_postfix(
            {name: f"{value:.4f}" for name, value in losses.items()}, refresh=False
        )
        self._bar.update(step - self._bar.n)
