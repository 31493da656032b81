"""What a folder says about its job: which one it is, and which shards are complete.

    job.json          the settings; the first file that is written
    data/             the shards
    records/          one for each complete shard, written after it
    manifest.json     all shards with their SHA-256; the last file that is written

A shard without a record, or of another size than that says, is made again.
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
"""Settings that may change between two runs: the fingerprint tells models apart."""


class JobStore:
    """The folder of a job, new or to be continued.

    Args:
        storage: where.
        job: which; what it leaves open is settled here.
        choose_device: the device of a new job, from the one that is asked for.

    Raises:
        InputError: the folder holds another job or something else, or cannot be read or written.
    """

    def __init__(
        self, storage: BulkStorage, job: BulkJob, choose_device: Callable[[Device], Device]
    ) -> None:
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
        """Records of complete shards, by shard.

        Args:
            verify: read the shards and compare them with their SHA-256, too.
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
        """Take back that the job is complete."""
        self._storage.remove(_MANIFEST)

    def mark_complete(self, records: dict[int, ShardRecord]) -> None:
        """Say that the job is complete.

        Raises:
            BulkError: workers have written somewhere else.
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
                f"{self._storage.url}/{_JOB} is no job of this release: {format_validation_error(error)}; "
                "choose another folder"
            ) from error


def _parse_record(text: bytes) -> ShardRecord | None:
    """None if it was cut short where files can be."""
    try:
        return ShardRecord.model_validate_json(text)
    except ValidationError:
        return None


def _differences(requested: BulkJob, stored: BulkJob) -> list[str]:
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
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            _flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
    return flat
