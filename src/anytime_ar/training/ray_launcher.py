"""Training on Ray Train: if a worker dies, all restart and resume from the last checkpoint.

Ray starts the workers, on one or several machines, and connects them. Each worker runs `train` in
the folder of the run, which holds all state that must survive a worker. Output, errors and
requests to stop pass between the driver (the calling program) and the workers through an actor,
`DriverChannel`.
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
    require_extras,
)
from anytime_ar.runtime.ray_cluster import (
    check_ray_device,
    choose_ray_device,
    ray_session,
    require_ray,
)
from anytime_ar.runtime.signals import defer_interrupts, forward_interrupts
from anytime_ar.training.config import SINGLE_PROCESS, DistributedConfig, TrainConfig
from anytime_ar.training.run import check_run_folder, create_run_folder, train

_WAIT_NOTICE_S = 60.0
"""Seconds without a worker before the user sees what the driver waits for."""


class RayTrainConfig(Config):
    """Number and size of the workers of a run on Ray, and how often they may fail."""

    workers: PositiveInt = 1
    """Ray worker processes on all machines; on CUDA, each has a GPU."""
    threads: PositiveInt = 1
    """CPU cores and threads of each worker."""
    max_failures: NonNegativeInt = 3
    """Number of restarts after a worker has died."""


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
    """Train as `train` does, on Ray workers, on the cluster of RAY_ADDRESS or on this machine.

    Args:
        config: Configuration of the run.
        folder: Folder of the run, on storage that all machines share.
        resume: Whether to resume a run in the folder; if False, an existing run is refused.
        device: `cpu`, `cuda`, or `auto`: GPUs, if the cluster has one for each worker.
        show_progress: Whether to show progress bars on standard error.
        distributed_config: Gradient accumulation and strategy; `workers` sets the number of
            processes.
        workers: Number and size of the workers, and how often they may fail.
        accept_changed_data: Whether to resume although the data has changed.

    Returns:
        The bundle with the trained model.

    Raises:
        InputError: See `train`; or `distributed_config` asks for several processes, or there are
            too few GPUs.
        MissingExtraError: The extra `train` or `ray` is not installed.
        TrainingError: See `train`; or workers have failed more than `max_failures` times.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the workers have written a checkpoint if they had
            started.
    """
    folder = Path(folder).absolute()
    check_ray_device(device)
    if distributed_config.world_size > 1:
        raise InputError(
            f"{distributed_config.world_size} processes are asked for by devices and nodes, which "
            "engine ray chooses itself; leave them out, and say how many workers there are to be"
        )
    config = check_run_folder(folder, config, resume=resume)
    if resume and (folder / "bundle").is_dir():
        return load_bundle(folder / "bundle")
    require_extras("training", "train")
    ray = require_ray("ray.train.torch")
    with (
        redirect_stdout(sys.stderr),  # Ray reports dead workers on standard output
        TemporaryDirectory(prefix="anytime-", ignore_cleanup_errors=True) as ray_storage,
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
                storage_path=ray_storage,  # required by Ray, but it holds no checkpoint
                failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
            ),
        )
        try:
            _monitor(ray, trainer, channel, folder, workers)
        except ray.exceptions.RayError as error:
            raise TrainingError(f"Ray: {_last_line(error)}; resume") from error
    return load_bundle(folder / "bundle")


def _monitor(ray: Any, trainer: Any, channel: Any, folder: Path, workers: RayTrainConfig) -> None:
    """Run the trainer to its end, and pass output and interrupts between workers and user.

    Raises:
        AnytimeError: An error of a worker, of its own class.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
        TrainingError: Workers have failed more than `max_failures` times, or Ray has failed.
    """
    failed: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failed.append(error)

    # In a thread, because Ray would handle Ctrl-C itself in the main thread.
    fitting = threading.Thread(target=fit, daemon=True)
    worker_error: tuple[str, str] | None = None
    starts, stop_sent, begin = 0, False, time.monotonic()
    with defer_interrupts(term=True) as interrupted:
        fitting.start()
        is_running = True
        while is_running:
            fitting.join(POLL_INTERVAL_S)
            is_running = fitting.is_alive()  # before polling, so that no output is missed
            output, now, worker_error = ray.get(channel.poll.remote())
            if now > max(starts, 1) and worker_error is None:
                _notify("a worker has died; all go on from the last checkpoint")
            starts = now
            sys.stderr.write(output)
            sys.stderr.flush()
            if interrupted.is_set() and not stop_sent:
                if not starts:  # no worker can write a checkpoint
                    raise interrupted.exception()
                channel.request_stop.remote()
                stop_sent = True
            if not starts and time.monotonic() - begin > _WAIT_NOTICE_S:
                _notify(f"waiting for {workers.workers} workers; has the cluster room for them?")
                begin = float("inf")
    if worker_error is not None:
        kind, text = worker_error
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
        # Neither Ray nor the other workers know why a process that they cannot reach is gone.
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
"""Seconds between two polls of the channel, by driver and workers."""
_ERROR_GRACE_S = 10.0
"""Seconds within which all workers should detect the same error."""


class DriverChannel:
    """A Ray actor that connects a driver with the workers of its run, over all restarts."""

    def __init__(self) -> None:
        """Start without output, errors and requests."""
        self._output: list[str] = []
        self._error: tuple[str, str] | None = None
        self._stop_requested = False
        self._num_starts = self._num_finished = 0

    def report_start(self) -> None:
        """Count a start of the workers; rank zero calls this."""
        self._num_starts += 1

    def send_output(self, text: str) -> None:
        """Queue text for the standard error of the driver."""
        self._output.append(text)

    def report_error(self, kind: str, text: str) -> None:
        """Store the class name and message of an error, unless an earlier one is stored."""
        self._error = self._error or (kind, text)

    def has_error(self) -> bool:
        """Return whether a worker has reported an error, also before a restart."""
        return self._error is not None

    def report_finished(self) -> None:
        """Count a worker that has finished."""
        self._num_finished += 1

    def num_finished(self) -> int:
        """Return how many workers have finished, over all restarts."""
        return self._num_finished

    def request_stop(self) -> None:
        """Ask the workers to stop after the current step, with a checkpoint."""
        self._stop_requested = True

    def stop_requested(self) -> bool:
        """Return whether the driver has asked the workers to stop."""
        return self._stop_requested

    def poll(self) -> tuple[str, int, tuple[str, str] | None]:
        """Return the news for the driver.

        Returns:
            Text since the last poll, number of starts of the workers, and class name and message of
            the first error or None.
        """
        output, self._output = "".join(self._output), []
        return output, self._num_starts, self._error


class _DriverStderr(io.TextIOBase):
    """A text stream of a worker that writes to the standard error of the driver."""

    encoding = "utf-8"

    def __init__(self, channel: Any) -> None:
        """Write through the handle of a `DriverChannel`."""
        self._channel = channel

    def write(self, text: str) -> int:
        """Send text to the driver without waiting; return its length."""
        self._channel.send_output.remote(text)
        return len(text)


def train_worker(task: dict[str, Any]) -> None:
    """Run `train` in a worker; if this raises an error, Ray restarts all workers.

    Args:
        task: `config`, `folder`, `device` (cpu or cuda), `show_progress`, `distributed_config` and
            `accept_changed_data`, the arguments of `train`; `threads` of a worker; the
            `working_folder` of the driver, and the `channel` to it.

    Raises:
        PeerExitedError: Another worker has died.
        AnytimeError: This worker has found an error while others still wait for it.
    """
    import ray
    import torch
    from ray.train.torch import get_device

    channel, rank = task["channel"], int(os.environ["RANK"])
    if rank == 0:
        channel.report_start.remote()
    if ray.get(channel.has_error.remote()):
        return  # the error would occur again, but Ray has restarted the workers
    # Ray assigns each worker its device, so `train` treats a worker as a machine with one device.
    os.environ.update(NODE_RANK=str(rank), LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    if Path(task["working_folder"]).is_dir():  # relative paths of data refer to it
        os.chdir(task["working_folder"])
    torch.set_num_threads(task["threads"])
    device = str(get_device()) if task["device"] == "cuda" else task["device"]
    folder = Path(task["folder"])
    own_error: AnytimeError | None = None
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
        pass  # another worker reports the error; or the driver has asked to stop
    except AnytimeError as error:
        ray.get(channel.report_error.remote(type(error).__name__, str(error)))
        own_error = error
    ray.get(channel.report_finished.remote())
    if own_error is not None and not _all_finished(ray, channel, int(os.environ["WORLD_SIZE"])):
        raise own_error  # only Ray can end the workers that wait for this one


def _all_finished(ray: Any, channel: Any, count: int) -> bool:
    """Wait for `_ERROR_GRACE_S` until `count` workers have finished; return whether they have."""
    until = time.monotonic() + _ERROR_GRACE_S
    while ray.get(channel.num_finished.remote()) < count:
        if time.monotonic() > until:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


@contextmanager
def _interrupts_from_driver(ray: Any, channel: Any) -> Iterator[None]:
    """Interrupt this worker when the driver asks it to stop."""
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
