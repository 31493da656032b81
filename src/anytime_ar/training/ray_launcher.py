"""A run on Ray Train: its processes are workers of Ray, on one machine or many, and if one dies all
start again and go on from the last checkpoint.

Ray starts the workers and lets them meet; what they do then is `train`, in the folder of the run,
which is where all that outlives a worker is. What people should see, mistakes, and the wish to end
go through an actor, the line, between the program that asked for the run and its workers.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import format_exception_only
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from anytime_ar import errors
from anytime_ar.bundle.format import Bundle, load_bundle
from anytime_ar.config import Config
from anytime_ar.errors import (
    AnytimeError,
    InputError,
    PeerExitedError,
    ReportedByRankZeroError,
    TrainingError,
)
from anytime_ar.runtime.ray_cluster import (
    check_ray_device,
    choose_ray_device,
    ray_session,
    require_ray,
)
from anytime_ar.runtime.signals import defer_interrupts, forward_interrupts
from anytime_ar.training.config import TrainConfig
from anytime_ar.training.launcher import SINGLE_PROCESS, DistributedConfig
from anytime_ar.training.run import check_run_folder, create_run_folder, train

_WAIT_NOTICE_S = 60.0
"""Seconds without a worker after which people are told what is waited for."""


class RayTrainConfig(Config):
    """The processes of a run on Ray, and how much they may fail."""

    workers: PositiveInt = 1
    """Processes of engine ray, on all machines; of CUDA, each with a GPU."""
    threads: PositiveInt = 1
    """Cores of each."""
    max_failures: NonNegativeInt = 3
    """Times that workers start again, from the last checkpoint, because one has died."""


def train_on_ray(
    config: TrainConfig,
    folder: Path | str,
    *,
    resume: bool = False,
    device: str = "auto",
    show_progress: bool = True,
    distributed_config: DistributedConfig = SINGLE_PROCESS,
    workers: RayTrainConfig = RayTrainConfig(),  # noqa: B008
    accept_changed_data: bool = False,
) -> Bundle:
    """`train`, by workers of Ray, on the cluster of RAY_ADDRESS or one of this machine.

    Args:
        config, resume, show_progress, accept_changed_data: see `train`.
        folder: where the run lives, in reach of all machines.
        device: `cpu`, `cuda`, or `auto`: GPUs, if the cluster has one for each worker.
        distributed_config: what each does at once; how many there are is for `workers` to say.
        workers: how many, and how much they may fail.

    Raises:
        InputError: see `train`; or this machine has too few GPUs.
        MissingExtraError: Ray is not installed.
        TrainingError: see `train`; or workers fail again and again.
    """
    folder = Path(folder).absolute()
    check_ray_device(device)
    if distributed_config.world_size > 1:
        raise InputError(
            f"{distributed_config.world_size} processes are asked for by devices and nodes, which engine ray "
            "chooses itself; leave them out, and say how many workers there are to be"
        )
    config = check_run_folder(folder, config, resume=resume)
    if resume and (folder / "bundle").is_dir():
        return load_bundle(folder / "bundle")
    ray = require_ray("ray.train.torch")
    with (
        redirect_stdout(sys.stderr),  # where Ray tells of workers that died
        TemporaryDirectory(prefix="anytime-", ignore_cleanup_errors=True) as place,
        ray_session(ray, workers.workers * workers.threads),
    ):
        device = choose_ray_device(ray, device, workers.workers)
        create_run_folder(folder, config)
        channel = ray.remote(num_cpus=0)(DriverChannel).remote()
        task = {
            "config": config,
            "folder": str(folder),
            "device": device,
            "show_progress": show_progress,
            "distributed_config": distributed_config,
            "accept_changed_data": accept_changed_data,
            "threads": workers.threads,
            "working_folder": str(Path.cwd()),
            "channel": channel,
        }
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        trainer = ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config=task,
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers.workers,
                use_gpu=device == "cuda",
                resources_per_worker={"CPU": workers.threads},
            ),
            run_config=ray.train.RunConfig(
                storage_path=place,  # Ray wants one; a checkpoint of its own is never made
                failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
            ),
        )
        try:
            _monitor(ray, trainer, channel, folder, workers)
        except ray.exceptions.RayError as error:
            raise TrainingError(f"Ray: {_last_line(error)}; resume") from error
    return load_bundle(folder / "bundle")


def _monitor(ray: Any, trainer: Any, channel: Any, folder: Path, workers: RayTrainConfig) -> None:
    """Let a run be made, and say what it says, to its end."""
    failed: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failed.append(error)

    # Not here: Ray would take Ctrl-C for itself.
    fitting = threading.Thread(target=fit, daemon=True)
    mistake: tuple[str, str] | None = None
    starts, asked, begin = 0, False, time.monotonic()
    with defer_interrupts(term=True) as interrupted:
        fitting.start()
        going = True
        while going:
            fitting.join(POLL_INTERVAL_S)
            going = fitting.is_alive()  # before listening, so that nothing said is missed
            said, now, mistake = ray.get(channel.poll.remote())
            if now > max(starts, 1) and mistake is None:
                _notify("a worker has died; all go on from the last checkpoint")
            starts = now
            sys.stderr.write(said)
            sys.stderr.flush()
            if interrupted.is_set() and not asked:
                if not starts:  # and nobody to write a checkpoint
                    raise interrupted.exception()
                channel.request_stop.remote()
                asked = True
            if not starts and time.monotonic() - begin > _WAIT_NOTICE_S:
                _notify(f"waiting for {workers.workers} workers; has the cluster room for them?")
                begin = float("inf")
    if mistake is not None:
        kind, text = mistake
        raise vars(errors).get(kind, TrainingError)(text)
    if interrupted.is_set() and not (folder / "bundle").is_dir():
        raise interrupted.exception()
    if failed:
        raise _worker_failure(failed[0], workers) from failed[0]


def _notify(message: str) -> None:
    sys.stderr.write(f"anytime: {message}\n")


def _worker_failure(error: Exception, workers: RayTrainConfig) -> TrainingError:
    failures = getattr(error, "worker_failures", None)
    if failures is None:
        return TrainingError(f"Ray: {_last_line(error)}; resume")
    reasons = [
        _last_line(one)
        for one in failures.values()
        # Why a process is gone nobody knows, Ray, which cannot reach it, no more than the others.
        if not (hasattr(one, "health_check_failure") or isinstance(one, PeerExitedError))
    ]
    reason = reasons[0] if reasons else "one was killed, or its machine is gone"
    return TrainingError(
        f"max_failures is {workers.max_failures}, and workers have failed once more ({reason}); "
        "resume to go on from the last checkpoint"
    )


def _last_line(error: Exception) -> str:
    return format_exception_only(error)[-1].strip().splitlines()[-1]


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
