"""From what is asked for to a job: names are looked up, numbers checked, and nothing is left to
what a model or a machine may say later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anytime_ar.bulk.jobs import (
    Device,
    EncodeJob,
    SampleJob,
    SavedContent,
    ShardingConfig,
    SplitName,
    load_model_data,
)
from anytime_ar.bundle import fingerprint, shipped_models
from anytime_ar.data import DataConfig
from anytime_ar.data.fingerprint import files_fingerprint
from anytime_ar.data.loading import EMBEDDED_SOURCES
from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel
from anytime_ar.sampling.plan import Label, label_indices


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
