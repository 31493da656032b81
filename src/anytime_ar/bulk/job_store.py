"""State of a bulk job in its folder: settings, complete shards and manifest.

    job.json          settings of the job; the first file that is written
    data/             the shards
    records/          one record for each complete shard, written after it
    manifest.json     all shards with their SHA-256; the last file that is written

A shard without a record, or with another size than its record says, is written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from anytime_ar.bulk.jobs import BulkJob, Device, EncodeJob, SampleJob, ShardRecord
from anytime_ar.bulk.storage import BulkStorage
from anytime_ar.config import format_validation_error
from anytime_ar.errors import BulkError, InputError
from anytime_ar.runtime.files import is_system_file, json_bytes

_JOB, _MANIFEST = "job.json", "manifest.json"
_ANY_JOB: TypeAdapter[SampleJob | EncodeJob] = TypeAdapter(SampleJob | EncodeJob)
_IGNORED_SETTINGS = {"model"}
"""Settings that may change between two runs of a job; the fingerprint identifies the model."""


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
    here, there = (
        _flatten(requested.model_dump(mode="json")),
        _flatten(stored.model_dump(mode="json")),
    )
    return [
        f"{name} is {there.get(name)} there and {here.get(name)} here"
        for name in sorted(here.keys() | there.keys())
        if name not in _IGNORED_SETTINGS and here.get(name) != there.get(name)
    ]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            _flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
    return flat
