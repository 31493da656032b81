"""Executors of bulk jobs: they load a model once and write shards."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from anytime_ar.bulk.formats import SHARD_ENCODERS, ShardRows, ShardSchema, pack_codes
from anytime_ar.bulk.jobs import BulkJob, EncodeJob, SampleJob, ShardRecord, load_model_data
from anytime_ar.bulk.storage import BulkStorage
from anytime_ar.bundle.format import fingerprint
from anytime_ar.data import Split
from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel, SampleKwargs, load


class JobExecutor(ABC):
    """A bulk job with its loaded model.

    Raises:
        InputError: The model has other weights than the job names, or the data does not fit it.
    """

    def __init__(self, job: BulkJob, model: AnytimeModel) -> None:
        """Check that the model is that of the job."""
        if fingerprint(model.bundle) != job.fingerprint:
            raise InputError(
                f"model {job.model!r} has other weights than at the start of this job; "
                "give all workers the same files"
            )
        self.job, self.model = job, model
        self._schema = ShardSchema(model.media, self.label_names)

    @property
    @abstractmethod
    def label_names(self) -> tuple[str, ...] | None:
        """Return the names of the classes of the rows; None: rows have no labels."""

    @abstractmethod
    def compute_rows(self, indices: range) -> tuple[ShardRows, int]:
        """Compute the rows of consecutive samples of the job.

        Returns:
            The rows, and the number of codes that were drawn or encoded for them.
        """

    def write_shard(self, shard: int, storage: BulkStorage) -> ShardRecord:
        """Write a shard and then its record, which marks the shard as complete."""
        begin, cpu_begin = time.perf_counter(), time.process_time()
        rows, codes = self.compute_rows(self.job.sample_indices(shard))
        content = SHARD_ENCODERS[self.job.sharding.format](rows, self._schema)
        storage.write(self.job.shard_path(shard), content)
        record = ShardRecord(
            shard=shard,
            rows=len(rows),
            codes=codes,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            seconds=round(time.perf_counter() - begin, 4),
            cpu_seconds=round(time.process_time() - cpu_begin, 4),
        )
        storage.write(self.job.record_path(shard), record.model_dump_json().encode())
        return record


class SampleJobExecutor(JobExecutor):
    """An executor that draws samples of a model."""

    job: SampleJob

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Return the names of the model's classes; None: it has no labels."""
        return self.model.labels

    def compute_rows(self, indices: range) -> tuple[ShardRows, int]:
        """Draw the samples with these indices."""
        codes, labels, files = [], [], []
        for part in _batches(indices, self.job.sharding.batch_size):
            plan, budget = self.model.plan(len(part), **self._draw_options(part))
            drawn = self.model.sampler.sample_codes(plan, budget)
            codes.append(drawn)
            if plan.labels is not None:
                labels += plan.labels.tolist()
            if self.job.save != "codes":
                files += self._schema.encode_files(self.model.decode(drawn))
        rows = ShardRows(
            first_index=indices.start,
            codes=None if self.job.save == "samples" else self._pack(codes),
            labels=labels or None,
            files=files or None,
        )
        return rows, len(indices) * self.job.codes

    def _pack(self, codes: list[Tensor]) -> Any:
        return pack_codes(torch.cat(codes), self.model.vocabulary)

    def _draw_options(self, indices: range) -> SampleKwargs:
        label: Any = self.job.label
        if isinstance(label, tuple):
            label = [label[number % len(label)] for number in indices]
        return SampleKwargs(
            seed=self.job.seed,
            first=indices.start,
            codes=self.job.codes,
            label=label,
            **self.job.sampling_params.model_dump(),  # type: ignore[typeddict-item]
        )


class EncodeJobExecutor(JobExecutor):
    """An executor that encodes a split of a data set."""

    job: EncodeJob

    def __init__(self, job: EncodeJob, model: AnytimeModel) -> None:
        """Open the split and check that its size is that of the job."""
        self._data = load_model_data(job.data, model)
        self._split: Split = getattr(self._data, job.split)
        if self._split.size != job.samples:
            raise InputError(
                f"{self._split.origin}: holds {self._split.size} samples, and {job.samples} at the "
                "start of this job; encode it anew, into another folder"
            )
        super().__init__(job, model)

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Return the names of the data set's classes; None: it has no labels."""
        return self._data.label_names

    def compute_rows(self, indices: range) -> tuple[ShardRows, int]:
        """Read and encode the samples with these indices."""
        batch = self._split.read_range(indices.start, indices.stop)
        codes = [self.model.encode(part) for part in batch.data.split(self.job.sharding.batch_size)]
        rows = ShardRows(
            first_index=indices.start,
            codes=pack_codes(torch.cat(codes), self.model.vocabulary),
            labels=None if batch.labels is None else batch.labels.tolist(),
            files=None,
        )
        return rows, len(indices) * self.model.code_length


def load_executor(job: BulkJob) -> JobExecutor:
    """Load the model of a job and open its data.

    Raises:
        InputError: Model or data are missing, have changed since the job began, or do not fit.
    """
    if isinstance(job, EncodeJob):
        return EncodeJobExecutor(job, load(job.model, device=job.device))
    assert isinstance(job, SampleJob)
    model = load(job.model, device=job.device, precision=job.precision, backend=job.backend)
    return SampleJobExecutor(job, model)


def _batches(indices: range, batch_size: int) -> list[range]:
    return [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
