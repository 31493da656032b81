"""What a worker of Ray Train does, and the line between it and the program that asked for a run."""

from __future__ import annotations

import io
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from anytime_ar.errors import AnytimeError, InputError, ProcessGoneError, ToldElsewhereError
from anytime_ar.interrupt import interrupts_told
from anytime_ar.training.run import train

LISTEN_S = 0.2
"""Seconds between two looks at the line, at either end."""
_TOGETHER_S = 10.0
"""Seconds within which workers find the same mistake."""


class Line:
    """An actor between a program and the workers of its run, whichever start they are of."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._mistake: tuple[str, str] | None = None
        self._ending = False
        self._starts = self._left = 0

    def begin(self) -> None:
        """The first worker is there."""
        self._starts += 1

    def say(self, text: str) -> None:
        """Something for people."""
        self._said.append(text)

    def go_wrong(self, kind: str, text: str) -> None:
        """An error of ours; the first one counts."""
        self._mistake = self._mistake or (kind, text)

    def has_gone_wrong(self) -> bool:
        """Whether there was one, perhaps at an earlier start."""
        return self._mistake is not None

    def leave(self) -> None:
        """A worker has nothing more to do."""
        self._left += 1

    def left(self) -> int:
        """How many have said so."""
        return self._left

    def end(self) -> None:
        """Workers should end after their step, with a checkpoint."""
        self._ending = True

    def is_ending(self) -> bool:
        """Whether they should."""
        return self._ending

    def hear(self) -> tuple[str, int, tuple[str, str] | None]:
        """What was said since the last time, how often workers have started, and what is wrong."""
        said, self._said = "".join(self._said), []
        return said, self._starts, self._mistake


class _Screen(io.TextIOBase):
    """Standard error of the program at the other end of the line."""

    encoding = "utf-8"

    def __init__(self, line: Any) -> None:
        self._line = line

    def write(self, text: str) -> int:
        self._line.say.remote(text)
        return len(text)


def work(task: dict[str, Any]) -> None:
    """What each worker does; what it raises has Ray start all of them again.

    Args:
        task: `config`, `folder`, `device` (cpu or cuda), `show_progress`, `processes` and
            `accept_changed_data` of the run, as `train` takes them; `threads` of a worker; the
            `working_folder` of the program, and the `line` to it.
    """
    import ray
    import torch
    from ray.train.torch import get_device

    line, rank = task["line"], int(os.environ["RANK"])
    if rank == 0:
        line.begin.remote()
    if ray.get(line.has_gone_wrong.remote()):
        return  # as before; Ray does not know that another start is in vain
    # Ray has given each worker its device already, so to us it is a machine with one.
    os.environ.update(NODE_RANK=str(rank), LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    if Path(task["working_folder"]).is_dir():  # from which paths of data may start
        os.chdir(task["working_folder"])
    torch.set_num_threads(task["threads"])
    device = str(get_device()) if task["device"] == "cuda" else task["device"]
    folder = Path(task["folder"])
    mistake: AnytimeError | None = None
    try:
        if not (folder / "config.yaml").is_file():
            raise InputError(
                f"{folder} is not in reach of {socket.gethostname()}; choose a folder on storage "
                "that all machines share"
            )
        with redirect_stderr(_Screen(line)), _told_by(ray, line):
            train(
                task["config"],
                folder,
                resume=True,
                device=device,
                show_progress=task["show_progress"],
                processes=task["processes"],
                accept_changed_data=task["accept_changed_data"],
            )
    except ProcessGoneError:
        raise
    except (ToldElsewhereError, KeyboardInterrupt):
        pass  # said by another; as was asked for
    except AnytimeError as error:
        ray.get(line.go_wrong.remote(type(error).__name__, str(error)))
        mistake = error
    ray.get(line.leave.remote())
    if mistake is not None and not _all_left(ray, line, int(os.environ["WORLD_SIZE"])):
        raise mistake  # others wait for this one, and only Ray can end them


def _all_left(ray: Any, line: Any, count: int) -> bool:
    until = time.monotonic() + _TOGETHER_S
    while ray.get(line.left.remote()) < count:
        if time.monotonic() > until:
            return False
        time.sleep(LISTEN_S)
    return True


@contextmanager
def _told_by(ray: Any, line: Any) -> Iterator[None]:
    """Let an interrupt come by the line."""
    over = threading.Event()
    with interrupts_told() as flag:

        def listen() -> None:
            while not over.wait(LISTEN_S):
                if ray.get(line.is_ending.remote()):
                    flag.note(signal.SIGINT, None)
                    return

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
