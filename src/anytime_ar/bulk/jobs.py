"""Bulk jobs: all settings that the bytes of their files depend on, as written to job.json.

A job is split into shards: shard s holds the samples s * shard_size to (s + 1) * shard_size - 1. A
sample depends on its index alone, so any worker can write any shard, with the same bytes.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt

from anytime_ar.bundle.format import fingerprint, shipped_models
from anytime_ar.config import Config
from anytime_ar.data import DataConfig, DataSplits, load_data
from anytime_ar.data.fingerprint import data_fingerprint, files_fingerprint
from anytime_ar.data.loading import EMBEDDED_SOURCES
from anytime_ar.errors import InputError
from anytime_ar.media.audio import require_audio
from anytime_ar.prior import Precision
from anytime_ar.prior.sampling_params import SamplingParams
from anytime_ar.sampling import AnytimeModel
from anytime_ar.sampling.plan import Label, label_indices

ShardFormat = Literal["parquet", "webdataset"]
"""File formats of a shard."""
SHARD_SUFFIXES: dict[ShardFormat, str] = {"parquet": "parquet", "webdataset": "tar"}
"""Suffixes of shard files, by format."""
SplitName = Literal["train", "validation", "test"]
"""Names of the splits of a data set."""
SavedContent = Literal["both", "samples", "codes"]
"""Contents of the shards of a sample job."""
Device = Literal["auto", "cpu", "cuda", "mps"]
"""Names of the devices of a job."""


class ShardingConfig(Config):
    """How the samples of a job are split into files."""

    format: ShardFormat = "parquet"
    """Format of the shards: parquet with Hugging Face metadata, or WebDataset tar files."""
    shard_size: PositiveInt = 1000
    """Samples in a shard, the work that is lost when a worker dies."""
    batch_size: PositiveInt = 256
    """Samples that are drawn or encoded in one batch."""


class BulkJob(Config):
    """Settings that all kinds of bulk jobs share."""

    format_version: Literal[2] = 2
    """Version of the format of job.json; the names of version 1 are read as well."""
    kind: str
    """Kind of the job, `sample` or `encode`."""
    model: str
    """Where workers find the model: shipped name, folder, or Hub id."""
    fingerprint: str
    """Fingerprint of the model, a SHA-256 of its weights."""
    device: Device
    """Device of the workers.

    `auto`: the device of the job in the folder; in a new folder, the best that all workers have.
    """
    samples: PositiveInt
    """Number of samples in the job."""
    sharding: ShardingConfig = ShardingConfig()
    """How the samples are split into files."""

    @property
    @abstractmethod
    def split_name(self) -> SplitName:
        """Return the split that the shard files are named after."""

    @property
    def num_shards(self) -> int:
        """Return the number of shards of the job."""
        return -(-self.samples // self.sharding.shard_size)

    def sample_indices(self, shard: int) -> range:
        """Return the indices of the samples in a shard."""
        start = shard * self.sharding.shard_size
        return range(start, min(start + self.sharding.shard_size, self.samples))

    def shard_path(self, shard: int) -> str:
        """Return the path of a shard, relative to the folder of the job."""
        suffix = SHARD_SUFFIXES[self.sharding.format]
        return f"data/{self.split_name}-{shard:05d}-of-{self.num_shards:05d}.{suffix}"

    def record_path(self, shard: int) -> str:
        """Return the path of the record that marks a shard as complete, relative to the folder."""
        return f"records/{shard:05d}.json"

    def resolve(self, stored: BulkJob | None, choose_device: Callable[[Device], Device]) -> Self:
        """Return this job with all open settings set, from the job in its folder if there is one.

        Args:
            stored: The job in the folder; None: the folder is new.
            choose_device: Function from the requested device to the device of a new job.
        """
        if stored is None:
            device = choose_device(self.device)
        else:
            device = stored.device if self.device == "auto" else self.device
        return self.model_copy(update={"device": device})


class SampleJob(BulkJob):
    """A bulk job that draws samples of a model."""

    kind: Literal["sample"] = "sample"
    """Kind of the job, always `sample`."""
    seed: NonNegativeInt | None = None
    """Seed of the samples; None: that of the job in the folder, in a new folder a random one."""
    codes: PositiveInt
    """Number k of codes of each sample."""
    label: NonNegativeInt | tuple[NonNegativeInt, ...] | None = None
    """Class of all samples, or several classes that samples cycle through.

    None: classes are drawn from the training distribution, by seed and index of the sample.
    """
    sampling_params: SamplingParams
    """Temperature, top-k, top-p and guidance."""
    conditions: dict[str, Any] | None = None
    """Values of the model's other conditions by name, which all samples are given."""
    fixed_codes: tuple[int, ...] | None = None
    """Codes that all samples are given, with -1 for codes to draw; None: all codes are drawn."""
    precision: Precision = "float32"
    """Number format in which the prior computes."""
    backend: Literal["native", "portable"]
    """Backend on CPUs, as the two round differently; other devices always use `portable`."""
    save: SavedContent = "both"
    """Contents of the shards: `samples`, their `codes`, or `both`."""

    @property
    def split_name(self) -> SplitName:
        """Return `train`, the split as which samples are stored."""
        return "train"

    def resolve(self, stored: BulkJob | None, choose_device: Callable[[Device], Device]) -> Self:
        """Return this job with device, seed and backend set; see `BulkJob.resolve`."""
        job = super().resolve(stored, choose_device)
        seed = job.seed
        if seed is None and isinstance(stored, SampleJob):
            seed = stored.seed
        if seed is None:
            seed = secrets.randbits(32)
        backend = job.backend if job.device == "cpu" else "portable"
        return job.model_copy(update={"seed": seed, "backend": backend})


class EncodeJob(BulkJob):
    """A bulk job that encodes a split of a data set."""

    kind: Literal["encode"] = "encode"
    """Kind of the job, always `encode`."""
    data: DataConfig
    """Data set and how it is prepared."""
    data_fingerprint: str | None = None
    """Fingerprint of the files of the data set and their content, or of the samples of the split.
    None in jobs of earlier releases, on sets without files."""
    split: SplitName = "train"
    """The split that is encoded, in its order."""

    @property
    def split_name(self) -> SplitName:
        """Return the split that is encoded."""
        return self.split

    def resolve(self, stored: BulkJob | None, choose_device: Callable[[Device], Device]) -> Self:
        """Return this job with its device set; see `BulkJob.resolve`."""
        job = super().resolve(stored, choose_device)
        # Jobs of earlier releases have no fingerprint of the data, or one without its content.
        if isinstance(stored, EncodeJob):
            earlier = stored.data_fingerprint
            if earlier is None or (job.data_fingerprint or "").startswith(f"{earlier}, "):
                job = job.model_copy(update={"data_fingerprint": earlier})
        return job


class ShardRecord(Config):
    """A record that a shard is complete."""

    shard: NonNegativeInt
    """Number of the shard, from 0."""
    rows: PositiveInt
    """Number of samples in the shard."""
    codes: NonNegativeInt
    """Number of codes drawn or encoded for all rows."""
    bytes: PositiveInt
    """Size of the file in bytes."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of the file, in hexadecimal."""
    seconds: float
    """Seconds that a worker took for the shard."""
    cpu_seconds: float
    """CPU seconds of the worker's process in that time."""


def load_model_data(config: DataConfig, model: AnytimeModel) -> DataSplits:
    """Open a data set and check that its samples fit a model.

    Raises:
        DataError: The data set cannot be read.
        InputError: Its samples have another shape or sample rate than those of the model.
    """
    data = load_data(config, model.bundle.card.data.channel_ranges)
    found, wanted = (data.sample_shape, data.sample_rate), (model.sample_shape, model.sample_rate)
    if found != wanted:
        raise InputError(
            f"{config.name}: samples of shape {found[0]}{_format_rate(found[1])} do not fit the "
            f"model, which takes {wanted[0]}{_format_rate(wanted[1])}; prepare them as its own "
            "data set was"
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
    conditions: Mapping[str, Any] | None = None,
    fixed_codes: Sequence[int] | None = None,
    save: SavedContent = "both",
    sharding: ShardingConfig = ShardingConfig(),  # noqa: B008
    device: Device | None = None,
    **sampling_params: Any,
) -> SampleJob:
    """Build a job that draws the samples 0..num_samples - 1 of a seed.

    Args:
        name: Where workers find the model: shipped name, folder, or Hub id.
        model: The loaded model of that name.
        num_samples: Number of samples in the job.
        seed: Seed of the samples; None: a random one, or that of a job to be continued.
        codes: Number of codes of each sample; None: all codes, unless `quality` is given.
        quality: Share of the full quality, (0, 1], that the curve turns into a number of codes.
        label: One class, or several that samples cycle through; None: as in the training data.
        conditions: Values of the model's other conditions by name, which all samples are given.
        fixed_codes: Codes that all samples are given, at most L, with -1 for codes to draw.
        save: Whether to write samples, their codes, or both.
        sharding: How the samples are split into files.
        device: Device of the workers; `auto`: the best that all of them have; None: the model's.
        **sampling_params: Sampling parameters `temperature`, `top_k`, `top_p` and `guidance`; those
            not given have the defaults of the model.

    Raises:
        InputError: A number is out of range, or a label is unknown.
        MissingExtraError: Samples are audio, and the extra `audio` is not installed.
        TypeError: There is no sampling parameter of that name.
    """
    if model.sample_rate is not None and save != "codes":
        require_audio()
    plan, budget = model.plan(
        1,
        codes=codes,
        quality=quality,
        seed=seed,
        conditions=conditions,
        fixed_codes=fixed_codes,
        **sampling_params,
    )
    values = _common_settings(name, model, num_samples, sharding, device) | {
        "seed": seed,
        "codes": model.sampler.resolve_budget(budget).max_codes,
        "label": _label_indices(model, label),
        "sampling_params": plan.sampling_params,
        "conditions": None if conditions is None else dict(conditions),
        "fixed_codes": None if plan.fixed_codes is None else tuple(plan.fixed_codes[0].tolist()),
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
    """Build a job that encodes a split of a data set.

    Args:
        name: Where workers find the model: shipped name, folder, or Hub id.
        model: The loaded model of that name.
        data: Data set and how it is prepared. A worker reads from a local data set only the samples
            of its shards. It loads all of a Hub data set, unless `streaming` is set.
        split: Split of the data set to encode.
        sharding: How the samples are split into files.
        device: Device of the workers; `auto`: the best that all of them have; None: the model's.

    Raises:
        DataError: The data set cannot be read.
        InputError: The data set does not fit the model, or does not give its size.
    """
    path = Path(data.name).expanduser()
    if data.name not in EMBEDDED_SOURCES and path.exists():
        data = data.model_copy(update={"name": str(path.resolve()), "streaming": True})
    splits = load_model_data(data, model)
    size = getattr(splits, split).size
    if size is None:
        raise InputError(
            f"{data.name} is streamed and does not say how many samples it has; "
            "set data.streaming to false"
        )
    files = files_fingerprint(data)
    if files is None:
        digest = data_fingerprint(splits).splits[split].sha256
        stated = None if digest is None else f"samples {digest[:16]}"
    else:
        stated = files.with_content()
    values = _common_settings(name, model, size, sharding, device) | {
        "data": data,
        "data_fingerprint": stated,
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
    """Return the settings that all kinds of jobs share."""
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
    """Return labels, given by number or name, as numbers."""
    if label is None:
        return None
    if isinstance(label, int | str):
        return int(label_indices(model.bundle.card, label, 1))
    if len(label) == 0:
        raise InputError("no labels to give in turn; pass at least one, or None")
    return tuple(label_indices(model.bundle.card, label, len(label)).tolist())
