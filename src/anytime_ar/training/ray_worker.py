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

from anytime_ar.errors import AnytimeError, InputError, PeerExitedError, ReportedByRankZeroError
from anytime_ar.interrupt import forward_interrupts
from anytime_ar.training.run import train

POLL_INTERVAL_S = 0.2
"""Seconds between two looks at the line, at either end."""
_ERROR_GRACE_S = 10.0
"""Seconds within which workers find the same mistake."""


class DriverChannel:
    """An actor between a program and the workers of its run, whichever start they are of."""

    def __init__(self) -> None:
        self._output: list[str] = []
        self._error: tuple[str, str] | None = None
        self._stop_requested = False
        self._num_starts = self._num_finished = 0

    def report_start(self) -> None:
        """The first worker is there."""
        self._num_starts += 1

    def send_output(self, text: str) -> None:
        """Something for people."""
        self._output.append(text)

    def report_error(self, kind: str, text: str) -> None:
        """An error of ours; the first one counts."""
        self._error = self._error or (kind, text)

    def has_error(self) -> bool:
        """Whether there was one, perhaps at an earlier start."""
        return self._error is not None

    def report_finished(self) -> None:
        """A worker has nothing more to do."""
        self._num_finished += 1

    def num_finished(self) -> int:
        """How many have said so."""
        return self._num_finished

    def request_stop(self) -> None:
        """Workers should end after their step, with a checkpoint."""
        self._stop_requested = True

    def stop_requested(self) -> bool:
        """Whether they should."""
        return self._stop_requested

    def poll(self) -> tuple[str, int, tuple[str, str] | None]:
        """What was said since the last time, how often workers have started, and what is wrong."""
        said, self._output = "".join(self._output), []
        return said, self._num_starts, self._error


class _DriverStderr(io.TextIOBase):
    """Standard error of the program at the other end of the line."""

    encoding = "utf-8"

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def write(self, text: str) -> int:
        self._channel.send_output.remote(text)
        return len(text)


def train_worker(task: dict[str, Any]) -> None:
    """What each worker does; what it raises has Ray start all of them again.

    Args:
        task: `config`, `folder`, `device` (cpu or cuda), `show_progress`, `processes` and
            `accept_changed_data` of the run, as `train` takes them; `threads` of a worker; the
            `working_folder` of the program, and the `channel` to it.
    """
    import ray
    import torch
    from ray.train.torch import get_device

    channel, rank = task["channel"], int(os.environ["RANK"])
    if rank == 0:
        channel.report_start.remote()
    if ray.get(channel.has_error.remote()):
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
        with redirect_stderr(_DriverStderr(channel)), _interrupts_from_driver(ray, channel):
            train(
                task["config"],
                folder,
                resume=True,
                device=device,
                show_progress=task["show_progress"],
                distributed_config=task["distributed_config"],
                accept_changed_data=task["accept_changed_data"],
            )
    except PeerExitedError:
        raise
    except (ReportedByRankZeroError, KeyboardInterrupt):
        pass  # said by another; as was asked for
    except AnytimeError as error:
        ray.get(channel.report_error.remote(type(error).__name__, str(error)))
        mistake = error
    ray.get(channel.report_finished.remote())
    if mistake is not None and not _all_finished(ray, channel, int(os.environ["WORLD_SIZE"])):
        raise mistake  # others wait for this one, and only Ray can end them


def _all_finished(ray: Any, channel: Any, count: int) -> bool:
    until = time.monotonic() + _ERROR_GRACE_S
    while ray.get(channel.num_finished.remote()) < count:
        if time.monotonic() > until:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


@contextmanager
def _interrupts_from_driver(ray: Any, channel: Any) -> Iterator[None]:
    """Let an interrupt come by the line."""
    over = threading.Event()
    with forward_interrupts() as flag:

        def listen() -> None:
            while not over.wait(POLL_INTERVAL_S):
                if ray.get(channel.stop_requested.remote()):
                    flag.handle(signal.SIGINT, None)
                    return

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
