"""Runs a job, from the start or from where it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, Protocol, Self, cast

from anytime_ar.bulk.folder import Folder
from anytime_ar.bulk.formats import require_format
from anytime_ar.bulk.jobs import Device, Job, Record
from anytime_ar.bulk.ledger import Ledger
from anytime_ar.bulk.ray_pool import Pool, RayPool
from anytime_ar.bulk.work import open_work
from anytime_ar.errors import AnytimeError, BulkError, InputError
from anytime_ar.sampling import choose_device

EngineName = Literal["local", "ray"]
Progress = Callable[[int, int, str], None]
"""Told how many of how many samples there are."""


class Workers(Protocol):
    """Who makes the shards of a job; see `RayPool` for what each of these does."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def choose_device(self, wanted: Device) -> Device: ...

    def records(self, job: Job, out: str, todo: list[int]) -> Generator[Record]: ...


class Here:
    """This process."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def choose_device(self, wanted: Device) -> Device:
        """Of auto, the best there is."""
        return cast(Device, choose_device(wanted).type)

    def records(self, job: Job, out: str, todo: list[int]) -> Generator[Record]:
        """Records of shards, as they are completed."""
        require_format(job.layout.format)
        work, folder = open_work(job), Folder(out)
        for shard in todo:
            yield work.make(shard, folder)


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
        InputError: the folder holds another job or something else, or cannot be used; or there is
            no such device.
        MissingExtraError: engine ray without Ray.
        BulkError: it cannot go on.
        KeyboardInterrupt: Ctrl-C; what is complete stays.
    """
    begin = time.perf_counter()
    if engine == "local" and pool != Pool():
        raise InputError(
            "workers and threads are settings of engine ray; leave them out, or use it"
        )
    crew: Workers = Here() if engine == "local" else RayPool(pool)
    with crew as workers:
        folder = Folder(out)
        ledger = Ledger(folder, job, workers.choose_device)
        job, records = ledger.job, ledger.complete(verify=verify)
        todo = [shard for shard in range(job.shards) if shard not in records]
        there = sum(record.rows for record in records.values())
        made: list[Record] = []
        if todo:
            ledger.reopen()
            try:
                with closing(workers.records(job, folder.place, todo)) as source:
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


def _so_far(job: Job, folder: Folder, records: dict[int, Record]) -> str:
    return (
        f"{len(records)} of {job.shards} shards are complete in {folder.url}, and the same command "
        "makes the others"
    )
