"""Runs a job, from the start or from where it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, Protocol, Self, cast

from anytime_ar.bulk.executors import load_executor
from anytime_ar.bulk.formats import require_format
from anytime_ar.bulk.job_store import JobStore
from anytime_ar.bulk.jobs import BulkJob, Device, ShardRecord
from anytime_ar.bulk.pools import RayPool, RayPoolConfig
from anytime_ar.bulk.storage import BulkStorage
from anytime_ar.errors import AnytimeError, BulkError, InputError
from anytime_ar.runtime.devices import resolve_device

EngineName = Literal["local", "ray"]
ProgressCallback = Callable[[int, int, str], None]
"""Told how many of how many samples there are."""


class WorkerPool(Protocol):
    """Who makes the shards of a job; see `RayPool` for what each of these does."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def choose_device(self, wanted: Device) -> Device: ...

    def run_shards(self, job: BulkJob, out: str, pending: list[int]) -> Generator[ShardRecord]: ...


class LocalPool:
    """This process."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def choose_device(self, wanted: Device) -> Device:
        """Of auto, the best there is."""
        return cast(Device, resolve_device(wanted).type)

    def run_shards(self, job: BulkJob, out: str, pending: list[int]) -> Generator[ShardRecord]:
        """Records of shards, as they are completed."""
        require_format(job.sharding.format)
        work, folder = load_executor(job), BulkStorage(out)
        for shard in pending:
            yield work.write_shard(shard, folder)


def no_progress(done: int, total: int, what: str) -> None:
    """The progress callback of those who do not watch."""


@dataclass(frozen=True)
class BulkReport:
    """What a run did; `new_samples` counts what earlier runs had not done."""

    job: BulkJob
    new_samples: int
    """Samples."""
    new_shards: int
    new_codes: int
    elapsed_s: float
    """From the call to the end."""
    worker_s: float
    """That workers took for shards, together."""

    @property
    def samples_per_s(self) -> float:
        """Samples a second, with everything."""
        return self.new_samples / self.elapsed_s

    @property
    def samples_per_worker_s(self) -> float:
        """Samples a second of one worker, while it works."""
        return self.new_samples / self.worker_s if self.new_samples else 0.0

    @property
    def codes_per_worker_s(self) -> float:
        """Codes a second of one worker, while it works."""
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
    """Write the shards of a job that a folder does not have yet.

    Args:
        job: see `sample_job` and `encode_job`.
        out: a folder, by its path or by any URL that fsspec knows; for this job alone.
        engine: `local`, this process; or `ray`, workers on a Ray cluster.
        pool: the workers of `ray`, and of no other engine.
        verify: compare what is there with its SHA-256 first.
        progress: called whenever there is another shard.

    Raises:
        InputError: the folder holds another job or something else, or cannot be used; or there is
            no such device.
        MissingExtraError: engine ray without Ray.
        BulkError: it cannot go on.
        KeyboardInterrupt: Ctrl-C; what is complete stays.
    """
    begin = time.perf_counter()
    if engine == "local" and pool != RayPoolConfig():
        raise InputError(
            "workers and threads are settings of engine ray; leave them out, or use it"
        )
    crew: WorkerPool = LocalPool() if engine == "local" else RayPool(pool)
    with crew as workers:
        folder = BulkStorage(out)
        ledger = JobStore(folder, job, workers.choose_device)
        job, records = ledger.job, ledger.completed_shards(verify=verify)
        todo = [shard for shard in range(job.num_shards) if shard not in records]
        there = sum(record.rows for record in records.values())
        made: list[ShardRecord] = []
        if todo:
            ledger.mark_incomplete()
            try:
                with closing(workers.run_shards(job, folder.absolute_url, todo)) as source:
                    for record in source:
                        made.append(record)
                        records[record.shard] = record
                        there += record.rows
                        progress(there, job.samples, "samples")
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"interrupted; {_completion_summary(job, folder, records)}"
                ) from None
            except AnytimeError as error:
                raise BulkError(f"{error}; {_completion_summary(job, folder, records)}") from error
        ledger.mark_complete(records)
    return BulkReport(
        job=job,
        new_samples=sum(record.rows for record in made),
        new_shards=len(made),
        new_codes=sum(record.codes for record in made),
        elapsed_s=time.perf_counter() - begin,
        worker_s=sum(record.seconds for record in made),
    )


def _completion_summary(job: BulkJob, storage: BulkStorage, records: dict[int, ShardRecord]) -> str:
    return (
        f"{len(records)} of {job.num_shards} shards are complete in {storage.url}, and the same command "
        "makes the others"
    )
