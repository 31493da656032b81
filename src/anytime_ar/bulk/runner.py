"""Run of a bulk job, from its start or from where it was interrupted, and its state in a folder.

    job.json          settings of the job; the first file that is written
    data/             the shards
    records/          one record for each complete shard, written after it
    manifest.json     all shards with their SHA-256; the last file that is written

A shard without a record, or with another size than its record says, is written again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from anytime_ar.bulk.formats import require_format
from anytime_ar.bulk.jobs import BulkJob, Device, EncodeJob, SampleJob, ShardRecord
from anytime_ar.bulk.storage import BulkStorage
from anytime_ar.bulk.workers import LocalPool, RayPool, RayPoolConfig, WorkerPool
from anytime_ar.config import changed_settings, format_validation_error
from anytime_ar.errors import AnytimeError, BulkError, InputError
from anytime_ar.runtime.files import is_system_file, json_bytes
from anytime_ar.runtime.progress import ProgressCallback, no_progress

EngineName = Literal["local", "ray"]
"""Engines that run a job: this process, or workers on Ray."""
_JOB, _MANIFEST = "job.json", "manifest.json"
_ANY_JOB: TypeAdapter[SampleJob | EncodeJob] = TypeAdapter(SampleJob | EncodeJob)
_IGNORED_SETTINGS = {"model"}
"""Settings that may change between two runs of a job; the fingerprint identifies the model."""


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
        if pending:
            store.mark_incomplete()
            num_done = sum(record.rows for record in records.values())
            source = workers.run_shards(job, storage.absolute_url, pending)
            with _report_completion(job, storage, records), closing(source):
                for record in source:
                    records[record.shard] = record
                    num_done += record.rows
                    progress(num_done, job.samples, "samples")
        store.mark_complete(records)
    new = [records[shard] for shard in pending]
    return BulkReport(
        job=job,
        new_samples=sum(record.rows for record in new),
        new_shards=len(new),
        new_codes=sum(record.codes for record in new),
        elapsed_s=time.perf_counter() - begin,
        worker_s=sum(record.seconds for record in new),
    )


@contextmanager
def _report_completion(
    job: BulkJob, storage: BulkStorage, records: dict[int, ShardRecord]
) -> Iterator[None]:
    """Add to errors in the block which part of a job is complete."""
    try:
        yield
    except (AnytimeError, KeyboardInterrupt) as error:
        summary = (
            f"{len(records)} of {job.num_shards} shards are complete in {storage.url}, and the "
            "same command makes the others"
        )
        if isinstance(error, AnytimeError):
            raise BulkError(f"{error}; {summary}") from error
        raise KeyboardInterrupt(f"interrupted; {summary}") from None


class JobStore:
    """The state of a job in its folder, new or to be continued.

    Args:
        storage: Folder of the job.
        job: The job; settings that it leaves open are resolved (see `BulkJob.resolve`).
        choose_device: Function from the requested device to the device of a new job.

    Raises:
        InputError: The folder holds another job or other files, or cannot be read or written.
    """

    def __init__(
        self, storage: BulkStorage, job: BulkJob, choose_device: Callable[[Device], Device]
    ) -> None:
        """Resolve the job, compare it with that of the folder, and prepare the folder."""
        self._storage = storage
        stored = self._load_job()
        self.job = job.resolve(stored, choose_device)
        if stored is not None and (differences := _differences(self.job, stored)):
            raise InputError(
                f"{storage.url} holds another job: {'; '.join(differences)}; "
                "choose another folder, or the same settings"
            )
        storage.prepare()
        if stored is None:
            storage.write(_JOB, json_bytes(self.job.model_dump(mode="json")))
        storage.prepare("data")
        storage.prepare("records")

    def completed_shards(self, *, verify: bool) -> dict[int, ShardRecord]:
        """Return the records of the complete shards, by number of the shard.

        Args:
            verify: Whether to read the shards and compare their SHA-256 with the records.
        """
        sizes = self._storage.sizes("data")
        found = {}
        for name, text in self._storage.read_all("records").items():
            record = _parse_record(text)
            if record is None or self.job.record_path(record.shard) != f"records/{name}":
                continue
            file = self.job.shard_path(record.shard)
            if sizes.get(file.removeprefix("data/")) != record.bytes:
                continue
            if verify and hashlib.sha256(self._storage.read(file) or b"").hexdigest() != (
                record.sha256
            ):
                continue
            found[record.shard] = record
        return found

    def mark_incomplete(self) -> None:
        """Remove the manifest, which marks the job as complete."""
        self._storage.remove(_MANIFEST)

    def mark_complete(self, records: dict[int, ShardRecord]) -> None:
        """Write the manifest, which marks the job as complete.

        Args:
            records: Records of all shards, by number of the shard.

        Raises:
            BulkError: A shard is missing, because workers have written to another folder.
        """
        sizes = self._storage.sizes("data")
        missing = {self.job.shard_path(shard) for shard in records} - {
            f"data/{name}" for name in sizes
        }
        if missing:
            raise BulkError(
                f"{min(missing)} was made, and is not in {self._storage.url}; choose a folder that "
                "all workers share"
            )
        shards = [
            {
                "file": self.job.shard_path(shard),
                "rows": records[shard].rows,
                "bytes": records[shard].bytes,
                "sha256": records[shard].sha256,
            }
            for shard in range(self.job.num_shards)
        ]
        manifest = {
            "format_version": 1,
            "samples": sum(record.rows for record in records.values()),
            "bytes": sum(record.bytes for record in records.values()),
            "shards": shards,
        }
        content = json_bytes(manifest)
        if self._storage.read(_MANIFEST) != content:
            self._storage.write(_MANIFEST, content)

    def _load_job(self) -> BulkJob | None:
        """Read the job of the folder; None: the folder is empty or does not exist.

        Raises:
            InputError: The folder holds other files, or a job that this release cannot read.
        """
        text = self._storage.read(_JOB)
        if text is None:
            names = {
                name
                for name in self._storage.sizes()
                if not name.startswith(".anytime-") and not is_system_file(name)
            }
            if names:
                raise InputError(
                    f"{self._storage.url} holds {min(names)} and no {_JOB}; choose a new or an "
                    "empty folder, nothing was overwritten"
                )
            return None
        try:
            return _ANY_JOB.validate_json(text)
        except ValidationError as error:
            raise InputError(
                f"{self._storage.url}/{_JOB} is no job of this release: "
                f"{format_validation_error(error)}; choose another folder"
            ) from error


def _parse_record(text: bytes) -> ShardRecord | None:
    """Parse a record; None: it is incomplete.

    Not every file system writes atomically, so a killed writer can leave an incomplete file.
    """
    try:
        return ShardRecord.model_validate_json(text)
    except ValidationError:
        return None


def _differences(requested: BulkJob, stored: BulkJob) -> list[str]:
    """Describe each setting in which two jobs differ."""
    return [
        f"{name} is {there} there and {here} here"
        for name, there, here in changed_settings(stored, requested)
        if name not in _IGNORED_SETTINGS
    ]
