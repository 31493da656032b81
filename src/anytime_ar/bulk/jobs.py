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
from anytime_ar.data import DataConfig, DataSplits, load_data
from anytime_ar.errors import InputError
from anytime_ar.prior import Precision
from anytime_ar.sampling import AnytimeModel, SamplingParams

ShardFormat = Literal["parquet", "webdataset"]
SHARD_SUFFIXES: dict[ShardFormat, str] = {"parquet": "parquet", "webdataset": "tar"}
SplitName = Literal["train", "validation", "test"]
SavedContent = Literal["both", "samples", "codes"]
Device = Literal["auto", "cpu", "cuda", "mps"]


class ShardingConfig(Config):
    """How samples are spread over files."""

    format: ShardFormat = "parquet"
    """parquet in the Hugging Face layout, or tar files of WebDataset."""
    shard_size: PositiveInt = 1000
    """Samples in a file; what is lost when a worker dies."""
    batch_size: PositiveInt = 256
    """Samples drawn or encoded together."""


class BulkJob(Config):
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
    sharding: ShardingConfig = ShardingConfig()

    @property
    @abstractmethod
    def split_name(self) -> SplitName:
        """What the files are named after."""

    @property
    def num_shards(self) -> int:
        """How many files there will be."""
        return -(-self.samples // self.sharding.shard_size)

    def sample_indices(self, shard: int) -> range:
        """The samples of a shard."""
        start = shard * self.sharding.shard_size
        return range(start, min(start + self.sharding.shard_size, self.samples))

    def shard_path(self, shard: int) -> str:
        """The name of a shard's file."""
        suffix = SHARD_SUFFIXES[self.sharding.format]
        return f"data/{self.split_name}-{shard:05d}-of-{self.num_shards:05d}.{suffix}"

    def record_path(self, shard: int) -> str:
        """The name of the file that says a shard is complete."""
        return f"records/{shard:05d}.json"

    def resolve(self, stored: BulkJob | None, choose_device: Callable[[Device], Device]) -> Self:
        """This job with nothing left open, as the one of its folder has it if there is one."""
        if stored is None:
            device = choose_device(self.device)
        else:
            device = stored.device if self.device == "auto" else self.device
        return self.model_copy(update={"device": device})


class SampleJob(BulkJob):
    """Samples drawn from a model."""

    kind: Literal["sample"] = "sample"
    seed: NonNegativeInt | None = None
    """None: that of the job in the folder, and in a new folder a fresh one."""
    codes: PositiveInt
    """k, for each sample."""
    label: NonNegativeInt | tuple[NonNegativeInt, ...] | None = None
    """One class, or several that samples get in turn; None: drawn from the training distribution,
    by seed and number."""
    sampling_params: SamplingParams
    precision: Precision = "float32"
    backend: Literal["native", "portable"]
    """What draws on CPUs, elsewhere always portable; the other one rounds otherwise."""
    save: SavedContent = "both"

    @property
    def split_name(self) -> SplitName:
        return "train"

    def resolve(self, stored: BulkJob | None, choose_device: Callable[[Device], Device]) -> Self:
        job = super().resolve(stored, choose_device)
        seed = job.seed
        if seed is None and isinstance(stored, SampleJob):
            seed = stored.seed
        if seed is None:
            seed = secrets.randbits(32)
        backend = job.backend if job.device == "cpu" else "portable"
        return job.model_copy(update={"seed": seed, "backend": backend})


class EncodeJob(BulkJob):
    """Codes of a data set."""

    kind: Literal["encode"] = "encode"
    data: DataConfig
    data_fingerprint: str | None = None
    """Files of the data set, in short; None: it is embedded, or the Hub's."""
    split: SplitName = "train"
    """The split that is encoded, in its order."""

    @property
    def split_name(self) -> SplitName:
        return self.split

    def resolve(self, stored: BulkJob | None, choose_device: Callable[[Device], Device]) -> Self:
        job = super().resolve(stored, choose_device)
        if (
            isinstance(stored, EncodeJob) and stored.data_fingerprint is None
        ):  # of an earlier release
            job = job.model_copy(update={"data_fingerprint": None})
        return job


class ShardRecord(Config):
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


def load_model_data(config: DataConfig, model: AnytimeModel) -> DataSplits:
    """Open a data set for a model.

    Raises:
        DataError: it cannot be read.
        InputError: its samples are not of the model's shape, or of another rate.
    """
    data = load_data(config)
    found, wanted = (data.sample_shape, data.sample_rate), (model.sample_shape, model.sample_rate)
    if found != wanted:
        raise InputError(
            f"{config.name}: samples of shape {found[0]}{_format_rate(found[1])} do not fit the model, "
            f"which takes {wanted[0]}{_format_rate(wanted[1])}; prepare them as its own data set was"
        )
    return data


def _format_rate(rate: int | None) -> str:
    return "" if rate is None else f" at {rate} Hz"
