"""The shards of a job on Ray Data: a pool of actors, each of which loads the model once.

An actor that dies is started again, and its shard is made anew. A mistake of the job is no reason
for that: it comes back as text, and ends the job.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from typing import Any

from pydantic import PositiveInt

from anytime_ar.bulk.folder import Folder
from anytime_ar.bulk.jobs import Job, Record
from anytime_ar.bulk.work import Work, open_work
from anytime_ar.config import Config
from anytime_ar.errors import AnytimeError, BulkError, InputError
from anytime_ar.ray_cluster import connected, require_ray


class Pool(Config):
    """The workers of a job on Ray."""

    workers: PositiveInt | None = None
    """Processes of engine ray; default: one for every core."""
    threads: PositiveInt = 1
    """Cores of each."""


class ShardMaker:
    """One actor."""

    def __init__(self, job: Job, out: str, threads: int) -> None:
        self._job, self._out, self._threads = job, out, threads
        self._opened: tuple[Work, Folder] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Make the shards of a batch; JSON of their records, or what is wrong."""
        answers: dict[str, list[str]] = {"record": [], "error": []}
        for shard in batch["shard"].tolist():
            try:
                work, folder = self._open()
                record, error = work.make(shard, folder).model_dump_json(), ""
            except AnytimeError as mistake:
                record, error = "", str(mistake)
            answers["record"].append(record)
            answers["error"].append(error)
        return answers

    def _open(self) -> tuple[Work, Folder]:
        """At the first shard and not before: an actor that cannot start is started for ever."""
        if self._opened is None:
            import torch

            torch.set_num_threads(self._threads)
            self._opened = open_work(self._job), Folder(self._out)
        return self._opened


def ray_records(job: Job, out: str, todo: list[int], pool: Pool) -> Generator[Record]:
    """Records of shards, as they are completed.

    On the cluster of RAY_ADDRESS, else on one of this machine, which ends with the job.

    Raises:
        InputError: a worker cannot make a shard.
        BulkError: Ray cannot go on.
    """
    ray = require_ray("ray.data")
    with connected(ray, (pool.workers or 1) * pool.threads):
        try:
            for row in _dataset(ray, job, out, todo, pool).iter_rows():
                if row["error"]:
                    raise InputError(row["error"])
                # Checked: a cluster may have another release of this package.
                yield Record.parse(json.loads(row["record"]), origin="record of a worker")
        except ray.exceptions.RayError as error:
            raise BulkError(f"Ray: {str(error).strip().splitlines()[-1]}") from error


def _dataset(ray: Any, job: Job, out: str, todo: list[int], pool: Pool) -> Any:
    cores = int(ray.cluster_resources().get("CPU", 1))
    workers = pool.workers or max(1, cores // pool.threads)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # A block for each shard: what is lost with a worker, and what goes to the next that is free.
    shards = ray.data.from_items(
        [{"shard": shard} for shard in todo], override_num_blocks=len(todo)
    )
    return shards.map_batches(
        ShardMaker,
        fn_constructor_args=(job, out, pool.threads),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(todo))),
        num_cpus=pool.threads,
        num_gpus=1 if job.device == "cuda" else None,
    )
