"""What a bulk job is: all that its files depend on, as written in its job.json.

A job is cut into shards, shard s being samples s * size to (s + 1) * size - 1. Every sample depends
on its number alone, so any worker may make any shard, at any time, and it is the same bytes.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt

from anytime_ar.bundle.format import fingerprint, shipped_models
from anytime_ar.config import Config
from anytime_ar.data import DataConfig, DataSplits, load_data
from anytime_ar.data.fingerprint import files_fingerprint
from anytime_ar.data.loading import EMBEDDED_SOURCES
from anytime_ar.errors import InputError
from anytime_ar.prior import Precision
from anytime_ar.prior.sampling_params import SamplingParams
from anytime_ar.sampling import AnytimeModel
from anytime_ar.sampling.plan import Label, label_indices

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


def sample_job(
    name: str | Path,
    model: AnytimeModel,
    num_samples: int,
    *,
    seed: int | None = None,
    codes: int | None = None,
    quality: float | None = None,
    label: Label | Sequence[Label] | None = None,
    save: SavedContent = "both",
    sharding: ShardingConfig = ShardingConfig(),  # noqa: B008
    device: Device | None = None,
    **sampling_params: Any,
) -> SampleJob:
    """A job that draws samples 0..n - 1 of a seed.

    Args:
        name: where workers find the model: shipped name, folder, or Hub id.
        model: what is there.
        num_samples: n.
        seed: None: a fresh one; a job that is continued keeps its own.
        codes, quality: see `SampleKwargs`.
        label: one class, or several that samples get in turn; None: as in the training data.
        save: what is written, samples, their codes, or both.
        sharding: of the files.
        device: of workers, `auto` for the best that all of them have; None: that of the model.
        sampling_params: temperature, top_k, top_p and guidance; what is not given is as the model does of
            its own.

    Raises:
        InputError: a number is out of range, or a label is unknown.
        TypeError: an option of that name does not exist.
    """
    plan, budget = model.plan(1, codes=codes, quality=quality, seed=seed, **sampling_params)
    values = _common_settings(name, model, num_samples, sharding, device) | {
        "seed": seed,
        "codes": model.sampler.resolve_budget(budget).max_codes,
        "label": _label_indices(model, label),
        "sampling_params": plan.sampling_params,
        "precision": model.precision,
        "backend": model.backend,
        "save": save,
    }
    return SampleJob.parse(values, origin="bulk job")


def encode_job(
    name: str | Path,
    model: AnytimeModel,
    data: DataConfig,
    *,
    split: SplitName = "train",
    sharding: ShardingConfig = ShardingConfig(),  # noqa: B008
    device: Device | None = None,
) -> EncodeJob:
    """A job that encodes a split of a data set.

    Args:
        name: where workers find the model: shipped name, folder, or Hub id.
        model: what is there.
        data: the set. One that lies here is read as far as a shard needs it; of the Hub's, every
            worker loads all, unless they are streamed.
        split: which part of it.
        sharding: of the files.
        device: see `sample_job`.

    Raises:
        InputError: the data set cannot be read, does not fit the model, or does not say its size.
    """
    path = Path(data.name).expanduser()
    if data.name not in EMBEDDED_SOURCES and path.exists():
        data = data.model_copy(update={"name": str(path.resolve()), "streaming": True})
    size = getattr(load_model_data(data, model), split).size
    if size is None:
        raise InputError(
            f"{data.name} is streamed and does not say how many samples it has; "
            "set data.streaming to false"
        )
    files = files_fingerprint(data)
    values = _common_settings(name, model, size, sharding, device) | {
        "data": data,
        "data_fingerprint": None if files is None else str(files),
        "split": split,
    }
    return EncodeJob.parse(values, origin="bulk job")


def _common_settings(
    name: str | Path,
    model: AnytimeModel,
    num_samples: int,
    sharding: ShardingConfig,
    device: Device | None,
) -> dict[str, Any]:
    folder = str(name) not in shipped_models() and Path(name).is_dir()
    return {
        "model": str(Path(name).resolve() if folder else name),
        "fingerprint": fingerprint(model.bundle),
        "device": device or model.device.type,
        "samples": num_samples,
        "sharding": sharding,
    }


def _label_indices(
    model: AnytimeModel, label: Label | Sequence[Label] | None
) -> int | tuple[int, ...] | None:
    """Labels by their numbers."""
    if label is None:
        return None
    if isinstance(label, int | str):
        return int(label_indices(model.bundle.card, label, 1))
    if len(label) == 0:
        raise InputError("no labels to give in turn; pass at least one, or None")
    return tuple(label_indices(model.bundle.card, label, len(label)).tolist())
