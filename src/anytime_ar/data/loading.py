"""From a data set's name to its three splits."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from anytime_ar.data.config import DataConfig
from anytime_ar.data.folders import (
    IMAGE_SUFFIXES,
    SOUND_SUFFIXES,
    SPLIT_FOLDERS,
    digits_source,
    folder_source,
    sounds_source,
)
from anytime_ar.data.hub import hub_source, parquet_source
from anytime_ar.data.pixels import ImageReader
from anytime_ar.data.rows import HeldOutRows, HoldOut, Rows, Source
from anytime_ar.data.sounds import SoundReader
from anytime_ar.data.splits import Split, StreamingSplit, read_into_memory
from anytime_ar.errors import DataError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
EMBEDDED = {"digits": digits_source, "sounds": sounds_source}


@dataclass(frozen=True)
class DataSplits:
    """A data set, split so that no sample is in two splits."""

    config: DataConfig
    train: Split
    validation: Split
    test: Split
    sample_shape: tuple[int, ...]
    """Images (C, H, W), with H = W; sounds (1, T)."""
    label_names: tuple[str, ...] | None
    """Name of each class, or None where the set has no labels."""
    sample_rate: int | None = None
    """Of sounds, in Hz."""


def load_data(config: DataConfig) -> DataSplits:
    """Open a data set and split it.

    A split that the source has is used as it is; a missing test split, then a missing validation
    split, is held out of the training split by `split_seed`.

    Raises:
        DataError: there is no such data set, or what it holds cannot be used; names the file.
        MissingExtraError: it needs an extra that is not installed.
    """
    source = _open(config)
    sounds = SoundReader(config.sound) if source.kind == "sound" else None
    reader = sounds or ImageReader(config)
    shape: tuple[int, ...] = ()
    splits: dict[str, Split] = {}
    for name, rows in _with_held_out(source, config).items():
        origin = f"{config.name} {name} split"
        first = next(rows.read(), None)
        if first is None:
            raise DataError(
                f"{origin}: no samples, of {source.splits['train'].size} before train was "
                "split; add some or change data.validation_fraction"
            )
        shape = reader(first).shape
        crop = None if sounds is None else shape[-1]
        read = sounds.for_training if sounds is not None and name == "train" else reader
        splits[name] = (
            StreamingSplit(rows, read, config.shuffle_buffer, origin, crop)
            if config.streaming
            else read_into_memory(rows, read, origin, crop)
        )
    return DataSplits(
        config=config,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        sample_shape=shape,
        label_names=source.label_names,
        sample_rate=None if sounds is None else sounds.sample_rate,
    )


def _with_held_out(source: Source, config: DataConfig) -> dict[str, Rows]:
    train = source.splits["train"]
    missing = [name for name in ("test", "validation") if name not in source.splits]
    hold_outs = [HoldOut(config.validation_fraction, config.split_seed, name) for name in missing]
    parts = {name: HeldOutRows(train, hold_outs, part) for part, name in enumerate(missing)}
    rest = HeldOutRows(train, hold_outs, len(missing)) if missing else train
    # Training first, so that messages about mixed shapes compare with a training image.
    return {"train": rest, **{k: v for k, v in source.splits.items() if k != "train"}, **parts}


def _open(config: DataConfig) -> Source:
    path = Path(config.name).expanduser()
    # "data/mnits" beside a folder "data" is a mistyped path: do not wait for the Hub to deny it.
    if _HUB_ID.fullmatch(config.name) and not path.exists() and not path.parent.is_dir():
        return hub_source(config)
    if config.revision is not None:
        raise DataError(
            f"data.revision is {config.revision!r}, but {config.name!r} is not a Hub set; leave "
            'data.revision out, or pass a Hub id "owner/name"'
        )
    if config.name in EMBEDDED:
        return EMBEDDED[config.name]()
    if path.exists():
        return _open_local(config, path)
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    names = [str(child) for child in beside if not child.name.startswith(".")]
    close = difflib.get_close_matches(str(path), [*names, *EMBEDDED], n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "check the spelling;"
    raise DataError(
        f"data path {config.name!r} does not exist; {hint} pass an existing file or folder, a Hub "
        f'id "owner/name", or an embedded set ({", ".join(EMBEDDED)})'
    )


def _open_local(config: DataConfig, path: Path) -> Source:
    if path.is_file() and path.suffix != ".parquet":
        raise DataError(
            f"{path}: not a parquet file; pass a .parquet file, or a folder of parquet, images or "
            "sounds"
        )
    source = parquet_source(config, path)
    if source is None:
        source = folder_source(path)
    if source is None:
        suffixes = ", ".join((*IMAGE_SUFFIXES, *SOUND_SUFFIXES))
        raise DataError(
            f"{path}: no images or sounds in this folder; expected "
            f"{'/'.join(SPLIT_FOLDERS)}*.parquet, or files ({suffixes}) in it or in one sub-folder "
            "per class"
        )
    return source
