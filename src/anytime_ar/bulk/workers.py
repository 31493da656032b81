"""Workers of a bulk job: this process, or actors on Ray Data that load the model once each.

Ray restarts an actor that dies and repeats its shard. An error of the job itself would occur again,
so the actor returns its message, and the job ends.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any, Self, cast

import torch
from pydantic import PositiveInt
from torch import Tensor

from anytime_ar.bulk.formats import (
    SHARD_ENCODERS,
    ShardRows,
    ShardSchema,
    pack_codes,
)
from anytime_ar.bulk.jobs import (
    BulkJob,
    Device,
    EncodeJob,
    SampleJob,
    ShardRecord,
    load_model_data,
)
from anytime_ar.bulk.storage import BulkStorage
from anytime_ar.bundle.format import fingerprint
from anytime_ar.config import Config
from anytime_ar.data import Split
from anytime_ar.errors import AnytimeError, BulkError, InputError
from anytime_ar.runtime.devices import resolve_device
from anytime_ar.runtime.ray_cluster import (
    check_ray_device,
    choose_ray_device,
    ray_session,
    require_ray,
)
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
            conditions=self.job.conditions,
            fixed_codes=self.job.fixed_codes,
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


class RayPoolConfig(Config):
    """Number and size of the workers of a job on Ray."""

    workers: PositiveInt | None = None
    """Ray worker processes; None: as many as cores and GPUs allow."""
    threads: PositiveInt = 1
    """CPU cores and threads of each worker, beside its GPU if it has one."""


class WorkerPool(ABC):
    """A pool of workers that write the shards of a job."""

    def __init__(self) -> None:
        """Start without resources to release."""
        self._exit_stack = ExitStack()

    def __enter__(self) -> Self:
        """Return the pool itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the resources of the pool."""
        self._exit_stack.close()

    @abstractmethod
    def choose_device(self, wanted: Device) -> Device:
        """Return the device on which workers compute; see `RayPool.choose_device`."""

    @abstractmethod
    def run_shards(self, job: BulkJob, out: str, pending: list[int]) -> Generator[ShardRecord]:
        """Write shards and yield their records; see `RayPool.run_shards`."""


class LocalPool(WorkerPool):
    """A worker pool that consists of this process."""

    def choose_device(self, wanted: Device) -> Device:
        """Return the requested device; `auto`: the best of this machine."""
        return cast(Device, resolve_device(wanted).type)

    def run_shards(self, job: BulkJob, out: str, pending: list[int]) -> Generator[ShardRecord]:
        """Write shards in this process and yield their records; see `RayPool.run_shards`."""
        executor, storage = load_executor(job), BulkStorage(out)
        for shard in pending:
            yield executor.write_shard(shard, storage)


class ShardWorker:
    """A Ray actor that writes shards of a job."""

    def __init__(self, job: BulkJob, out: str, threads: int) -> None:
        """Store the settings; the first shard loads the model."""
        self._job, self._out, self._threads = job, out, threads
        self._loaded: tuple[JobExecutor, BulkStorage] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Write the shards of a batch.

        Args:
            batch: Numbers of the shards, int64 [n], as `shard`.

        Returns:
            For each shard, its record as JSON in `record`, or the message of an error in `error`.
        """
        results: dict[str, list[str]] = {"record": [], "error": []}
        for shard in batch["shard"].tolist():
            try:
                executor, storage = self._load()
                record, message = executor.write_shard(shard, storage).model_dump_json(), ""
            except AnytimeError as error:
                record, message = "", str(error)
            results["record"].append(record)
            results["error"].append(message)
        return results

    def _load(self) -> tuple[JobExecutor, BulkStorage]:
        """Return executor and storage, loaded at the first shard.

        Ray would restart an actor without end if its constructor failed.
        """
        if self._loaded is None:
            torch.set_num_threads(self._threads)
            self._loaded = load_executor(self._job), BulkStorage(self._out)
        return self._loaded


class RayPool(WorkerPool):
    """A worker pool on the Ray cluster of RAY_ADDRESS, or on a local one that ends with the block.

    The pool connects to the cluster at its first use.

    Args:
        pool: Number and size of the workers.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, pool: RayPoolConfig) -> None:
        """Import Ray without connecting to a cluster."""
        super().__init__()
        self._pool, self._ray = pool, require_ray("ray.data")
        self._is_connected = False

    def choose_device(self, wanted: Device) -> Device:
        """Return the device on which workers compute.

        Args:
            wanted: Requested device; `auto`: CUDA, if the cluster has enough GPUs.

        Raises:
            InputError: Ray has no such devices, or too few of them.
        """
        check_ray_device(wanted)
        self._connect()
        return cast(Device, choose_ray_device(self._ray, wanted, self._pool.workers or 1))

    def run_shards(self, job: BulkJob, out: str, pending: list[int]) -> Generator[ShardRecord]:
        """Write shards and yield their records as they complete.

        Args:
            job: The job, with all settings set.
            out: Path or URL of the folder, reachable for all workers.
            pending: Numbers of the shards to write.

        Yields:
            The record of each shard, in order of completion.

        Raises:
            InputError: A worker cannot write a shard, or lacks the device.
            BulkError: Ray has failed.
        """
        self.choose_device(job.device)
        try:
            for row in self._dataset(job, out, pending).iter_rows():
                if row["error"]:
                    raise InputError(row["error"])
                # Validated, because workers may run another release of this package.
                yield ShardRecord.parse(json.loads(row["record"]), origin="record of a worker")
        except self._ray.exceptions.RayError as error:
            raise BulkError(f"Ray: {str(error).strip().splitlines()[-1]}") from error

    def _connect(self) -> None:
        """Connect to the cluster, unless that is done."""
        if not self._is_connected:
            cores = (self._pool.workers or 1) * self._pool.threads
            self._exit_stack.enter_context(ray_session(self._ray, cores))
            self._is_connected = True

    def _num_workers(self, device: Device) -> int:
        """Return the configured number of workers, or as many as the cluster has room for."""
        resources = self._ray.cluster_resources()
        capacity = int(resources.get("CPU", 1)) // self._pool.threads
        if device == "cuda":
            capacity = min(capacity, int(resources.get("GPU", 0)))
        return self._pool.workers or max(1, capacity)

    def _dataset(self, job: BulkJob, out: str, pending: list[int]) -> Any:
        """Return a lazy Ray data set that writes the pending shards when it is iterated over."""
        data = self._ray.data
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # One block for each shard, so that free workers take one shard at a time, and a worker that
        # dies loses a single one.
        shards = data.from_items(
            [{"shard": shard} for shard in pending], override_num_blocks=len(pending)
        )
        workers = min(self._num_workers(job.device), len(pending))
        return shards.map_batches(
            ShardWorker,
            fn_constructor_args=(job, out, self._pool.threads),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=workers),
            num_cpus=self._pool.threads,
            num_gpus=1 if job.device == "cuda" else None,
        )
