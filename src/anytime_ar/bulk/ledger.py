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

from anytime_ar.bulk.folder import Folder
from anytime_ar.bulk.jobs import Device, EncodeJob, Job, Record, SampleJob
from anytime_ar.config import describe
from anytime_ar.errors import BulkError, InputError
from anytime_ar.files import is_system_file, json_bytes

_JOB, _MANIFEST = "job.json", "manifest.json"
_ANY_JOB: TypeAdapter[SampleJob | EncodeJob] = TypeAdapter(SampleJob | EncodeJob)
_PATHS = {"model"}
"""Settings that may change between two runs: the fingerprint tells models apart."""


class Ledger:
    """The folder of a job, new or to be continued.

    Args:
        folder: where.
        job: which; what it leaves open is settled here.
        choose_device: the device of a new job, from the one that is asked for.

    Raises:
        InputError: the folder holds another job or something else, or cannot be read or written.
    """

    def __init__(self, folder: Folder, job: Job, choose_device: Callable[[Device], Device]) -> None:
        self._folder = folder
        stored = self._stored()
        self.job = job.settled(stored, choose_device)
        if stored is not None and (differences := _differences(self.job, stored)):
            raise InputError(
                f"{folder.url} holds another job: {'; '.join(differences)}; "
                "choose another folder, or the same settings"
            )
        folder.prepare()
        if stored is None:
            folder.write(_JOB, json_bytes(self.job.model_dump(mode="json")))
        folder.prepare("data")
        folder.prepare("records")

    def complete(self, *, verify: bool) -> dict[int, Record]:
        """Records of complete shards, by shard.

        Args:
            verify: read the shards and compare them with their SHA-256, too.
        """
        sizes = self._folder.sizes("data")
        found = {}
        for name, text in self._folder.read_all("records").items():
            record = _record(text)
            if record is None or self.job.record(record.shard) != f"records/{name}":
                continue
            file = self.job.file(record.shard)
            if sizes.get(file.removeprefix("data/")) != record.bytes:
                continue
            if verify and hashlib.sha256(self._folder.read(file) or b"").hexdigest() != (
                record.sha256
            ):
                continue
            found[record.shard] = record
        return found

    def reopen(self) -> None:
        """Take back that the job is complete."""
        self._folder.remove(_MANIFEST)

    def close(self, records: dict[int, Record]) -> None:
        """Say that the job is complete.

        Raises:
            BulkError: workers have written somewhere else.
        """
        sizes = self._folder.sizes("data")
        missing = {self.job.file(shard) for shard in records} - {f"data/{name}" for name in sizes}
        if missing:
            raise BulkError(
                f"{min(missing)} was made, and is not in {self._folder.url}; choose a folder that "
                "all workers share"
            )
        shards = [
            {
                "file": self.job.file(shard),
                "rows": records[shard].rows,
                "bytes": records[shard].bytes,
                "sha256": records[shard].sha256,
            }
            for shard in range(self.job.shards)
        ]
        manifest = {
            "format_version": 1,
            "samples": sum(record.rows for record in records.values()),
            "bytes": sum(record.bytes for record in records.values()),
            "shards": shards,
        }
        content = json_bytes(manifest)
        if self._folder.read(_MANIFEST) != content:
            self._folder.write(_MANIFEST, content)

    def _stored(self) -> Job | None:
        text = self._folder.read(_JOB)
        if text is None:
            names = {
                name
                for name in self._folder.sizes()
                if not name.startswith(".anytime-") and not is_system_file(name)
            }
            if names:
                raise InputError(
                    f"{self._folder.url} holds {min(names)} and no {_JOB}; choose a new or an "
                    "empty folder, nothing was overwritten"
                )
            return None
        try:
            return _ANY_JOB.validate_json(text)
        except ValidationError as error:
            raise InputError(
                f"{self._folder.url}/{_JOB} is no job of this release: {describe(error)}; "
                "choose another folder"
            ) from error


def _record(text: bytes) -> Record | None:
    """None if it was cut short where files can be."""
    try:
        return Record.model_validate_json(text)
    except ValidationError:
        return None


def _differences(asked: Job, stored: Job) -> list[str]:
    here, there = _flat(asked.model_dump(mode="json")), _flat(stored.model_dump(mode="json"))
    return [
        f"{name} is {there.get(name)} there and {here.get(name)} here"
        for name in sorted(here.keys() | there.keys())
        if name not in _PATHS and here.get(name) != there.get(name)
    ]


def _flat(values: dict[str, Any], head: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{head}{name}.") if isinstance(value, dict) else {head + name: value}
    return flat
