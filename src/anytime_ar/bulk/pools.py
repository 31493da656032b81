"""The shards of a job on Ray Data: a pool of actors, each of which loads the model once.

An actor that dies is started again, and its shard is made anew. A mistake of the job is no reason
for that: it comes back as text, and ends the job.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any, Self, cast

from pydantic import PositiveInt

from anytime_ar.bulk.executors import JobExecutor, load_executor
from anytime_ar.bulk.jobs import BulkJob, Device, ShardRecord
from anytime_ar.bulk.storage import BulkStorage
from anytime_ar.config import Config
from anytime_ar.errors import AnytimeError, BulkError, InputError
from anytime_ar.runtime.ray_cluster import (
    check_ray_device,
    choose_ray_device,
    ray_session,
    require_ray,
)


class RayPoolConfig(Config):
    """The workers of a job on Ray."""

    workers: PositiveInt | None = None
    """Ray worker processes; default: one for every core, or GPU."""
    threads: PositiveInt = 1
    """Cores of each, beside its GPU if it has one."""


class ShardWorker:
    """One actor."""

    def __init__(self, job: BulkJob, out: str, threads: int) -> None:
        self._job, self._out, self._threads = job, out, threads
        self._loaded: tuple[JobExecutor, BulkStorage] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Make the shards of a batch; JSON of their records, or what is wrong."""
        answers: dict[str, list[str]] = {"record": [], "error": []}
        for shard in batch["shard"].tolist():
            try:
                work, folder = self._load()
                record, error = work.write_shard(shard, folder).model_dump_json(), ""
            except AnytimeError as mistake:
                record, error = "", str(mistake)
            answers["record"].append(record)
            answers["error"].append(error)
        return answers

    def _load(self) -> tuple[JobExecutor, BulkStorage]:
        """At the first shard and not before: an actor that cannot start is started for ever."""
        if self._loaded is None:
            import torch

            torch.set_num_threads(self._threads)
            self._loaded = load_executor(self._job), BulkStorage(self._out)
        return self._loaded


class RayPool:
    """Workers on the cluster of RAY_ADDRESS, else on one of this machine, which ends with the
    block; joined when there is something to ask of it.

    Args:
        pool: which.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, pool: RayPoolConfig) -> None:
        self._pool, self._ray = pool, require_ray("ray.data")
        self._exit_stack = ExitStack()
        self._is_connected = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit_stack.close()

    def choose_device(self, wanted: Device) -> Device:
        """What workers compute on.

        Raises:
            InputError: Ray has no such devices, or this machine has too few of them.
        """
        check_ray_device(wanted)
        self._connect()
        return cast(Device, choose_ray_device(self._ray, wanted, self._pool.workers or 1))

    def run_shards(self, job: BulkJob, out: str, pending: list[int]) -> Generator[ShardRecord]:
        """Records of shards, as they are completed.

        Raises:
            InputError: a worker cannot make a shard, or has not the device.
            BulkError: Ray cannot go on.
        """
        self.choose_device(job.device)
        try:
            for row in self._dataset(job, out, pending).iter_rows():
                if row["error"]:
                    raise InputError(row["error"])
                # Checked: a cluster may have another release of this package.
                yield ShardRecord.parse(json.loads(row["record"]), origin="record of a worker")
        except self._ray.exceptions.RayError as error:
            raise BulkError(f"Ray: {str(error).strip().splitlines()[-1]}") from error

    def _connect(self) -> None:
        if not self._is_connected:
            cores = (self._pool.workers or 1) * self._pool.threads
            self._exit_stack.enter_context(ray_session(self._ray, cores))
            self._is_connected = True

    def _num_workers(self, device: Device) -> int:
        """As many as the cluster has room for, unless it was said how many."""
        there = self._ray.cluster_resources()
        rooms = int(there.get("CPU", 1)) // self._pool.threads
        if device == "cuda":
            rooms = min(rooms, int(there.get("GPU", 0)))
        return self._pool.workers or max(1, rooms)

    def _dataset(self, job: BulkJob, out: str, pending: list[int]) -> Any:
        data = self._ray.data
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # A block for each shard: what is lost with a worker, and what goes to the next that is
        # free.
        shards = data.from_items(
            [{"shard": shard} for shard in pending], override_num_blocks=len(pending)
        )
        workers = min(self._num_workers(job.device), len(pending))
        return shards.map_batches(
            ShardWorker,
            fn_constructor_args=(job, out, self._pool.threads),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=workers),
            num_cpus=self._pool.threads,
            num_gpus=1 if job.device == "cuda" else None,
        )
