"""Runs a job, from the start or from where it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from anytime_ar.bulk.folder import Folder
from anytime_ar.bulk.jobs import Job, Record
from anytime_ar.bulk.ledger import Ledger
from anytime_ar.bulk.ray_pool import Pool, ray_records
from anytime_ar.bulk.work import open_work
from anytime_ar.errors import AnytimeError, BulkError, InputError
from anytime_ar.ray_cluster import require_ray

EngineName = Literal["local", "ray"]
Progress = Callable[[int, int, str], None]
"""Told how many of how many samples there are."""


def silent(done: int, total: int, what: str) -> None:
    """The progress callback of those who do not watch."""


@dataclass(frozen=True)
class Report:
    """What a run did; `made` counts what earlier runs had not done."""

    job: Job
    made: int
    """Samples."""
    shards: int
    codes: int
    seconds: float
    """From the call to the end."""
    work_s: float
    """That workers took for shards, together."""

    @property
    def per_s(self) -> float:
        """Samples a second, with everything."""
        return self.made / self.seconds

    @property
    def per_worker_s(self) -> float:
        """Samples a second of one worker, while it works."""
        return self.made / self.work_s if self.made else 0.0

    @property
    def codes_per_worker_s(self) -> float:
        """Codes a second of one worker, while it works."""
        return self.codes / self.work_s if self.made else 0.0


def run(
    job: Job,
    out: str,
    *,
    engine: EngineName = "local",
    pool: Pool = Pool(),  # noqa: B008
    verify: bool = False,
    progress: Progress = silent,
) -> Report:
    """Write the shards of a job that a folder does not have yet.

    Args:
        job: see `sample_job` and `encode_job`.
        out: a folder, by its path or by any URL that fsspec knows; for this job alone.
        engine: `local`, this process; or `ray`, workers on a Ray cluster.
        pool: the workers of `ray`, and of no other engine.
        verify: compare what is there with its SHA-256 first.
        progress: called whenever there is another shard.

    Raises:
        InputError: the folder holds another job or something else, or cannot be used.
        MissingExtraError: engine ray without Ray.
        BulkError: it cannot go on.
        KeyboardInterrupt: Ctrl-C; what is complete stays.
    """
    begin = time.perf_counter()
    if engine == "local" and pool != Pool():
        raise InputError(
            "workers and threads are settings of engine ray; leave them out, or use it"
        )
    if engine == "ray":
        require_ray("ray.data")  # before anything is written
    folder = Folder(out)
    ledger = Ledger(folder, job)
    job, records = ledger.job, ledger.complete(verify=verify)
    todo = [shard for shard in range(job.shards) if shard not in records]
    there = sum(record.rows for record in records.values())
    made: list[Record] = []
    if todo:
        ledger.reopen()
        local = engine == "local"
        source = _local(job, folder, todo) if local else ray_records(job, folder.place, todo, pool)
        try:
            with closing(source):
                for record in source:
                    made.append(record)
                    records[record.shard] = record
                    there += record.rows
                    progress(there, job.samples, "samples")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; {_so_far(job, folder, records)}") from None
        except AnytimeError as error:
            raise BulkError(f"{error}; {_so_far(job, folder, records)}") from error
    ledger.close(records)
    return Report(
        job=job,
        made=sum(record.rows for record in made),
        shards=len(made),
        codes=sum(record.codes for record in made),
        seconds=time.perf_counter() - begin,
        work_s=sum(record.seconds for record in made),
    )


def _local(job: Job, folder: Folder, todo: list[int]) -> Generator[Record]:
    work = open_work(job)
    for shard in todo:
        yield work.make(shard, folder)


def _so_far(job: Job, folder: Folder, records: dict[int, Record]) -> str:
    return (
        f"{len(records)} of {job.shards} shards are complete in {folder.url}, and the same command "
        "makes the others"
    )
