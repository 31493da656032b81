"""What a worker does: it opens a job once, and makes shards of it."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anytime_ar.bulk.folder import Folder
from anytime_ar.bulk.formats import FORMATS, Content, Rows, packed
from anytime_ar.bulk.jobs import EncodeJob, Job, Record, SampleJob
from anytime_ar.bundle import fingerprint
from anytime_ar.data import (
    DataConfig,
    DataSplits,
    Split,
    load_data,
    picture_files,
    sound_files,
)
from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel, DrawOptions, load


class Work(ABC):
    """A job whose model is loaded.

    Raises:
        InputError: the model is another one here, or the data set does not fit it.
    """

    def __init__(self, job: Job, model: AnytimeModel) -> None:
        if fingerprint(model.bundle) != job.fingerprint:
            raise InputError(
                f"model {job.model!r} has other weights than at the start of this job; "
                "give all workers the same files"
            )
        self.job, self.model = job, model
        self._content = _content(model, self.label_names)

    @property
    @abstractmethod
    def label_names(self) -> tuple[str, ...] | None:
        """Names of the classes of rows."""

    @abstractmethod
    def rows(self, numbers: range) -> tuple[Rows, int]:
        """Some samples of the job, and how many codes were drawn or encoded for them."""

    def make(self, shard: int, folder: Folder) -> Record:
        """Write a shard, and once it is there, its record."""
        begin, cpu_begin = time.perf_counter(), time.process_time()
        rows, codes = self.rows(self.job.numbers(shard))
        content = FORMATS[self.job.layout.format](rows, self._content)
        folder.write(self.job.file(shard), content)
        record = Record(
            shard=shard,
            rows=len(rows),
            codes=codes,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            seconds=round(time.perf_counter() - begin, 4),
            cpu_seconds=round(time.process_time() - cpu_begin, 4),
        )
        folder.write(self.job.record(shard), record.model_dump_json().encode())
        return record


class SampleWork(Work):
    """Draws."""

    job: SampleJob

    @property
    def label_names(self) -> tuple[str, ...] | None:
        return self.model.labels

    def rows(self, numbers: range) -> tuple[Rows, int]:
        codes, labels, files = [], [], []
        for part in _parts(numbers, self.job.layout.batch_size):
            plan, budget = self.model.plan(len(part), **self._options(part))
            drawn = self.model.engine.codes(plan, budget)
            codes.append(drawn)
            if plan.labels is not None:
                labels += plan.labels.tolist()
            if self.job.keep != "codes":
                files += self._content.files(self.model.decode(drawn))
        rows = Rows(
            first=numbers.start,
            codes=None if self.job.keep == "samples" else self._packed(codes),
            labels=labels or None,
            files=files or None,
        )
        return rows, len(numbers) * self.job.codes

    def _packed(self, codes: list[Tensor]) -> Any:
        return packed(torch.cat(codes), self.model.vocabulary)

    def _options(self, part: range) -> DrawOptions:
        label: Any = self.job.label
        if isinstance(label, tuple):
            label = [label[number % len(label)] for number in part]
        return DrawOptions(
            seed=self.job.seed,
            first=part.start,
            codes=self.job.codes,
            label=label,
            **self.job.choice.model_dump(),  # type: ignore[typeddict-item]
        )


class EncodeWork(Work):
    """Encodes."""

    job: EncodeJob

    def __init__(self, job: EncodeJob, model: AnytimeModel) -> None:
        self._data = open_data(job.data, model)
        self._split: Split = getattr(self._data, job.part)
        if self._split.size != job.samples:
            raise InputError(
                f"{self._split.origin}: holds {self._split.size} samples, and {job.samples} at the "
                "start of this job; encode it anew, into another folder"
            )
        super().__init__(job, model)

    @property
    def label_names(self) -> tuple[str, ...] | None:
        return self._data.label_names

    def rows(self, numbers: range) -> tuple[Rows, int]:
        batch = self._split.span(numbers.start, numbers.stop)
        codes = [self.model.encode(part) for part in batch.data.split(self.job.layout.batch_size)]
        rows = Rows(
            first=numbers.start,
            codes=packed(torch.cat(codes), self.model.vocabulary),
            labels=None if batch.labels is None else batch.labels.tolist(),
            files=None,
        )
        return rows, len(numbers) * self.model.code_length


def open_work(job: Job) -> Work:
    """Load what a job needs.

    Raises:
        InputError: it is not there, is another one than at the start, or does not fit.
    """
    if isinstance(job, EncodeJob):
        return EncodeWork(job, load(job.model, device=job.device))
    assert isinstance(job, SampleJob)
    model = load(job.model, device=job.device, precision=job.precision, backend=job.backend)
    return SampleWork(job, model)


def open_data(config: DataConfig, model: AnytimeModel) -> DataSplits:
    """Open a data set for a model.

    Raises:
        DataError: it cannot be read.
        InputError: its samples are not of the model's shape, or of another rate.
    """
    data = load_data(config)
    found, wanted = (data.sample_shape, data.sample_rate), (model.sample_shape, model.sample_rate)
    if found != wanted:
        raise InputError(
            f"{config.name}: samples of shape {found[0]}{_at(found[1])} do not fit the model, "
            f"which takes {wanted[0]}{_at(wanted[1])}; prepare them as its own data set was"
        )
    return data


def _at(rate: int | None) -> str:
    return "" if rate is None else f" at {rate} Hz"


def _content(model: AnytimeModel, label_names: tuple[str, ...] | None) -> Content:
    rate = model.sample_rate
    if rate is None:
        return Content("image", "png", picture_files, label_names)
    return Content("audio", "wav", partial(sound_files, sample_rate=rate), label_names)


def _parts(numbers: range, size: int) -> list[range]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]
