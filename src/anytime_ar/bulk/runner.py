"""Run of a bulk job, from its start or from where it was interrupted."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from anytime_ar.bulk.formats import require_format
from anytime_ar.bulk.job_store import JobStore
from anytime_ar.bulk.jobs import BulkJob, ShardRecord
from anytime_ar.bulk.pools import LocalPool, RayPool, RayPoolConfig, WorkerPool
from anytime_ar.bulk.storage import BulkStorage
from anytime_ar.errors import AnytimeError, BulkError, InputError
from anytime_ar.runtime.progress import ProgressCallback, no_progress

EngineName = Literal["local", "ray"]
"""Engines that run a job: this process, or workers on Ray."""


@dataclass(frozen=True)
class BulkReport:
    """Work of one run of a job, without the shards of earlier runs."""

    job: BulkJob
    """The job, with all settings set."""
    new_samples: int
    """Number of samples that this run wrote."""
    new_shards: int
    """Number of shards that this run wrote."""
    new_codes: int
    """Number of codes that this run drew or encoded."""
    elapsed_s: float
    """Seconds from the call of `run` to its end."""
    worker_s: float
    """Seconds that shards took, summed over all workers."""

    @property
    def samples_per_s(self) -> float:
        """Return samples per second of the whole run, with start and waiting."""
        return self.new_samples / self.elapsed_s

    @property
    def samples_per_worker_s(self) -> float:
        """Return samples per second of a worker while it writes shards."""
        return self.new_samples / self.worker_s if self.new_samples else 0.0

    @property
    def codes_per_worker_s(self) -> float:
        """Return codes per second of a worker while it writes shards."""
        return self.new_codes / self.worker_s if self.new_samples else 0.0


def run(
    job: BulkJob,
    out: str,
    *,
    engine: EngineName = "local",
    pool: RayPoolConfig = RayPoolConfig(),  # noqa: B008
    verify: bool = False,
    progress: ProgressCallback = no_progress,
) -> BulkReport:
    """Write the shards of a job that its folder does not have yet.

    Args:
        job: The job, built by `sample_job` or `encode_job`.
        out: Folder of this job alone, as a path or as a URL that fsspec supports.
        engine: `local`, this process; or `ray`, workers on a Ray cluster.
        pool: Number and size of the workers, for engine `ray` only.
        verify: Whether to compare complete shards with their SHA-256 first.
        progress: Function that is called after each shard.

    Returns:
        The work and the speed of this run.

    Raises:
        InputError: The folder holds another job or other files, or cannot be used; or there is no
            such device.
        MissingExtraError: The engine is `ray`, and Ray is not installed; or pyarrow is missing.
        BulkError: A worker or Ray has failed; complete shards stay.
        KeyboardInterrupt: Ctrl-C; complete shards stay.
    """
    begin = time.perf_counter()
    if engine == "local" and pool != RayPoolConfig():
        raise InputError(
            "workers and threads are settings of engine ray; leave them out, or use it"
        )
    require_format(job.sharding.format)
    worker_pool: WorkerPool = LocalPool() if engine == "local" else RayPool(pool)
    with worker_pool as workers:
        storage = BulkStorage(out)
        store = JobStore(storage, job, workers.choose_device)
        job, records = store.job, store.completed_shards(verify=verify)
        pending = [shard for shard in range(job.num_shards) if shard not in records]
        num_done = sum(record.rows for record in records.values())
        new: list[ShardRecord] = []
        if pending:
            store.mark_incomplete()
            try:
                with closing(workers.run_shards(job, storage.absolute_url, pending)) as source:
                    for record in source:
                        new.append(record)
                        records[record.shard] = record
                        num_done += record.rows
                        progress(num_done, job.samples, "samples")
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"interrupted; {_completion_summary(job, storage, records)}"
                ) from None
            except AnytimeError as error:
                raise BulkError(f"{error}; {_completion_summary(job, storage, records)}") from error
        store.mark_complete(records)
    return BulkReport(
        job=job,
        new_samples=sum(record.rows for record in new),
        new_shards=len(new),
        new_codes=sum(record.codes for record in new),
        elapsed_s=time.perf_counter() - begin,
        worker_s=sum(record.seconds for record in new),
    )


def _completion_summary(job: BulkJob, storage: BulkStorage, records: dict[int, ShardRecord]) -> str:
    """Describe which part of a job is complete, for the message of an interruption."""
    return (
        f"{len(records)} of {job.num_shards} shards are complete in {storage.url}, and the same "
        "command makes the others"
    )
