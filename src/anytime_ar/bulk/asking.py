"""From what is asked for to a job: names are looked up, numbers checked, and nothing is left to
what a model or a machine may say later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anytime_ar.bulk.jobs import Device, EncodeJob, Keep, Layout, SampleJob, SplitName
from anytime_ar.bulk.work import open_data
from anytime_ar.bundle import fingerprint, shipped
from anytime_ar.data import DataConfig
from anytime_ar.data.fingerprint import files_fingerprint
from anytime_ar.data.loading import EMBEDDED
from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel
from anytime_ar.sampling.plan import Label, label_numbers


def sample_job(
    name: str | Path,
    model: AnytimeModel,
    samples: int,
    *,
    seed: int | None = None,
    codes: int | None = None,
    quality: float | None = None,
    label: Label | Sequence[Label] | None = None,
    keep: Keep = "both",
    layout: Layout = Layout(),  # noqa: B008
    device: Device | None = None,
    **choice: Any,
) -> SampleJob:
    """A job that draws samples 0..n - 1 of a seed.

    Args:
        name: where workers find the model: shipped name, folder, or Hub id.
        model: what is there.
        samples: n.
        seed: None: a fresh one; a job that is continued keeps its own.
        codes, quality: see `DrawOptions`.
        label: one class, or several that samples get in turn; None: as in the training data.
        keep: what is written, samples, their codes, or both.
        layout: of the files.
        device: of workers, `auto` for the best that all of them have; None: that of the model.
        choice: temperature, top_k, top_p and guidance; what is not given is as the model does of
            its own.

    Raises:
        InputError: a number is out of range, or a label is unknown.
        TypeError: an option of that name does not exist.
    """
    plan, budget = model.plan(1, codes=codes, quality=quality, seed=seed, **choice)
    values = _common(name, model, samples, layout, device) | {
        "seed": seed,
        "codes": model.engine.limit(budget).codes,
        "label": _numbers(model, label),
        "choice": plan.choice,
        "precision": model.precision,
        "backend": model.backend,
        "keep": keep,
    }
    return SampleJob.parse(values, origin="bulk job")


def encode_job(
    name: str | Path,
    model: AnytimeModel,
    data: DataConfig,
    *,
    split: SplitName = "train",
    layout: Layout = Layout(),  # noqa: B008
    device: Device | None = None,
) -> EncodeJob:
    """A job that encodes a split of a data set.

    Args:
        name: where workers find the model: shipped name, folder, or Hub id.
        model: what is there.
        data: the set. One that lies here is read as far as a shard needs it; of the Hub's, every
            worker loads all, unless they are streamed.
        split: which part of it.
        layout: of the files.
        device: see `sample_job`.

    Raises:
        InputError: the data set cannot be read, does not fit the model, or does not say its size.
    """
    path = Path(data.name).expanduser()
    if data.name not in EMBEDDED and path.exists():
        data = data.model_copy(update={"name": str(path.resolve()), "streaming": True})
    size = getattr(open_data(data, model), split).size
    if size is None:
        raise InputError(
            f"{data.name} is streamed and does not say how many samples it has; "
            "set data.streaming to false"
        )
    files = files_fingerprint(data)
    values = _common(name, model, size, layout, device) | {
        "data": data,
        "inputs": None if files is None else str(files),
        "part": split,
    }
    return EncodeJob.parse(values, origin="bulk job")


def _common(
    name: str | Path, model: AnytimeModel, samples: int, layout: Layout, device: Device | None
) -> dict[str, Any]:
    folder = str(name) not in shipped() and Path(name).is_dir()
    return {
        "model": str(Path(name).resolve() if folder else name),
        "fingerprint": fingerprint(model.bundle),
        "device": device or model.device.type,
        "samples": samples,
        "layout": layout,
    }


def _numbers(
    model: AnytimeModel, label: Label | Sequence[Label] | None
) -> int | tuple[int, ...] | None:
    """Labels by their numbers."""
    if label is None:
        return None
    if isinstance(label, int | str):
        return int(label_numbers(model.bundle.card, label, 1))
    if len(label) == 0:
        raise InputError("no labels to give in turn; pass at least one, or None")
    return tuple(label_numbers(model.bundle.card, label, len(label)).tolist())
