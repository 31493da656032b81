"""What a bulk job is: all that its files depend on, as written in its job.json.

A job is cut into shards, shard s being samples s * size to (s + 1) * size - 1. Every sample depends
on its number alone, so any worker may make any shard, at any time, and it is the same bytes.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt

from anytime_ar.config import Config
from anytime_ar.data import DataConfig
from anytime_ar.prior import Precision
from anytime_ar.sampling import ChoiceConfig

Format = Literal["parquet", "webdataset"]
SUFFIXES: dict[Format, str] = {"parquet": "parquet", "webdataset": "tar"}
SplitName = Literal["train", "validation", "test"]
Keep = Literal["both", "samples", "codes"]
Device = Literal["auto", "cpu", "cuda", "mps"]


class Layout(Config):
    """How samples are spread over files."""

    format: Format = "parquet"
    """parquet in the Hugging Face layout, or tar files of WebDataset."""
    shard_size: PositiveInt = 1000
    """Samples in a file; what is lost when a worker dies."""
    batch_size: PositiveInt = 256
    """Samples drawn or encoded together."""


class Job(Config):
    """What jobs of all kinds have in common."""

    format_version: Literal[1] = 1
    kind: str
    model: str
    """Shipped name, folder, or Hub id."""
    fingerprint: str
    """SHA-256 of its weights."""
    device: Device
    """Of workers; auto: that of the job in the folder, and in a new folder the best that all of
    them have."""
    samples: PositiveInt
    layout: Layout = Layout()

    @property
    @abstractmethod
    def split(self) -> SplitName:
        """What the files are named after."""

    @property
    def shards(self) -> int:
        """How many files there will be."""
        return -(-self.samples // self.layout.shard_size)

    def numbers(self, shard: int) -> range:
        """The samples of a shard."""
        start = shard * self.layout.shard_size
        return range(start, min(start + self.layout.shard_size, self.samples))

    def file(self, shard: int) -> str:
        """The name of a shard's file."""
        suffix = SUFFIXES[self.layout.format]
        return f"data/{self.split}-{shard:05d}-of-{self.shards:05d}.{suffix}"

    def record(self, shard: int) -> str:
        """The name of the file that says a shard is complete."""
        return f"records/{shard:05d}.json"

    def settled(self, stored: Job | None, choose_device: Callable[[Device], Device]) -> Self:
        """This job with nothing left open, as the one of its folder has it if there is one."""
        if stored is None:
            device = choose_device(self.device)
        else:
            device = stored.device if self.device == "auto" else self.device
        return self.model_copy(update={"device": device})


class SampleJob(Job):
    """Samples drawn from a model."""

    kind: Literal["sample"] = "sample"
    seed: NonNegativeInt | None = None
    """None: that of the job in the folder, and in a new folder a fresh one."""
    codes: PositiveInt
    """k, for each sample."""
    label: NonNegativeInt | tuple[NonNegativeInt, ...] | None = None
    """One class, or several that samples get in turn; None: drawn from the training distribution,
    by seed and number."""
    choice: ChoiceConfig
    precision: Precision = "float32"
    backend: Literal["native", "portable"]
    """What draws on CPUs, elsewhere always portable; the other one rounds otherwise."""
    keep: Keep = "both"

    @property
    def split(self) -> SplitName:
        return "train"

    def settled(self, stored: Job | None, choose_device: Callable[[Device], Device]) -> Self:
        job = super().settled(stored, choose_device)
        seed = job.seed
        if seed is None and isinstance(stored, SampleJob):
            seed = stored.seed
        if seed is None:
            seed = secrets.randbits(32)
        backend = job.backend if job.device == "cpu" else "portable"
        return job.model_copy(update={"seed": seed, "backend": backend})


class EncodeJob(Job):
    """Codes of a data set."""

    kind: Literal["encode"] = "encode"
    data: DataConfig
    inputs: str | None = None
    """Files of the data set, in short; None: it is embedded, or the Hub's."""
    part: SplitName = "train"
    """The split that is encoded, in its order."""

    @property
    def split(self) -> SplitName:
        return self.part

    def settled(self, stored: Job | None, choose_device: Callable[[Device], Device]) -> Self:
        job = super().settled(stored, choose_device)
        if isinstance(stored, EncodeJob) and stored.inputs is None:  # of an earlier release
            job = job.model_copy(update={"inputs": None})
        return job


class Record(Config):
    """Says that a shard is complete."""

    shard: NonNegativeInt
    rows: PositiveInt
    codes: NonNegativeInt
    """Drawn or encoded for them, in all."""
    bytes: PositiveInt
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    seconds: float
    """That a worker took for it."""
    cpu_seconds: float
    """Of processors, in those."""
