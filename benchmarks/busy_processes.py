"""Keep cores busy, as neighbours on the same machine would."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess


@contextmanager
def busy_processes(count: int) -> Iterator[list[SpawnProcess]]:
    """Start processes that keep one core busy each, and end them after the block."""
    context = multiprocessing.get_context("spawn")
    mine = (os.getpid(),)
    processes = [
        context.Process(target=_keep_core_busy, args=mine, daemon=True) for _ in range(count)
    ]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _keep_core_busy(parent: int) -> None:
    """Keep a core busy until the parent process has ended, however it ended."""
    while os.getppid() == parent:
        pass
