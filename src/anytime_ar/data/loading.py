"""Load the three splits of a data set by its name."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch.distributed as dist

from anytime_ar.conditions import Condition
from anytime_ar.data.conditions import ConditionedRows, read_conditions
from anytime_ar.data.config import DataConfig
from anytime_ar.data.decoding import (
    AudioRowDecoder,
    BrokenSampleCollector,
    DecodableRows,
    ImageRowDecoder,
    RowDecoder,
    TensorRowDecoder,
)
from anytime_ar.data.rows import DataSource, HeldOutRows, HoldOut, LabelCheckedRows, Row, SplitRows
from anytime_ar.data.sources.arrays import ARRAY_SUFFIXES, array_source
from anytime_ar.data.sources.embedded import digits_source, sounds_source
from anytime_ar.data.sources.folders import folder_source
from anytime_ar.data.sources.hub import hub_source
from anytime_ar.data.sources.objects import Samples, object_source
from anytime_ar.data.sources.parquet import is_parquet, parquet_source
from anytime_ar.data.splits import Split, StreamingSplit, read_into_memory
from anytime_ar.errors import BrokenSampleError, DataError
from anytime_ar.media.series import ChannelRanges
from anytime_ar.plugins import call_function

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
EMBEDDED_SOURCES = {"digits": digits_source, "sounds": sounds_source}
"""Functions that open the embedded data sets, by name."""


@dataclass(frozen=True)
class DataSplits:
    """The splits of a data set; no sample is in two of them."""

    config: DataConfig
    train: Split
    validation: Split
    test: Split
    sample_shape: tuple[int, ...]
    """Shape of a sample: images (C, H, W), sounds and series (C, T)."""
    label_names: tuple[str, ...] | None
    """Name of each class; None if the set has no labels."""
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    """What samples are conditioned on beside their label, by name."""
    sample_rate: int | None = None
    """Sample rate of sounds in Hz; None for images and series."""
    channel_ranges: ChannelRanges | None = None
    """Range of each channel of series that is scaled to [-1, 1]; None for images and sounds."""
    channel_names: tuple[str, ...] | None = None
    """Names of the channels of series; None if they have none."""
    notes: tuple[str, ...] = ()
    """Parts of the stored set that were left out, in words; each is also a warning."""


DataLike: TypeAlias = "DataSplits | DataSource | Path | str | Samples | Mapping[str, Samples]"
"""What a program can train on: a path or name, samples, or samples by split."""
_RANGE_SAMPLES = 256
"""Number of samples whose range is looked at."""
OBJECT_NAME = "python-object"
"""Name of a data set that a program passes without a name."""


def load_objects(
    data: DataLike, config: DataConfig, channel_ranges: ChannelRanges | None = None
) -> DataSplits:
    """Return the splits of a data set that a program holds.

    Missing test and validation splits are held out of the training split, as of a data set in
    files. With `config.streaming`, the items of a `Dataset` are read again in every epoch.

    Args:
        data: samples, as float [N, C, H, W] in [-1, 1], uint8 [N, C, H, W], or [N, C, T]: sounds in
            [-1, 1] if `config.audio.sample_rate` is set, series in any units otherwise; or a
            `Dataset` of such samples or of PIL images; with labels if they are (samples, labels).
            A mapping gives splits by name, `train` among them. A path or name is that of files.
        config: name of the set, sample rate of audio, conversion of PIL images, and hold-outs.
        channel_ranges: see `load_data`.

    Raises:
        DataError: the samples cannot be used; the message says which and why.
    """
    if isinstance(data, DataSplits):
        return data
    if isinstance(data, str | Path):
        config = config.model_copy(update={"name": str(data), "source": None})
        return load_data(config, channel_ranges)
    if "name" not in config.model_fields_set:
        name = OBJECT_NAME if config.source is None else config.source.kind
        config = config.model_copy(update={"name": name})
    if not isinstance(data, DataSource):
        data = object_source(config, data if isinstance(data, Mapping) else {"train": data})
    loaded = _load_source(config, data, channel_ranges)
    first = next(loaded.train.chunks(_RANGE_SAMPLES)).samples
    if first.is_floating_point() and 0 <= float(first.min()) < float(first.max()):
        warnings.warn(
            f"{config.name}: no value of the first {len(first)} samples is below 0; samples are in "
            "[-1, 1], so scale values of [0, 1] by 2 * x - 1",
            stacklevel=3,
        )
    return loaded


def load_data(config: DataConfig, channel_ranges: ChannelRanges | None = None) -> DataSplits:
    """Open a data set and split it.

    A split that the source has is used as it is. A missing test split, then a missing validation
    split, is held out of the training split by `split_seed`.

    Args:
        config: the data set, and the conversion of its samples.
        channel_ranges: ranges of the channels of series that are scaled to [-1, 1], as on the data
            card of a model; None: those of the training split.

    Raises:
        DataError: there is no such data set, or its content cannot be used; names the file.
        MissingExtraError: the data set needs an extra that is not installed.
    """
    if config.source is not None:
        data = call_function(config.source, "data source")
        return load_objects(data, config, channel_ranges)
    return _load_source(config, _open_source(config), channel_ranges)


def _load_source(
    config: DataConfig, source: DataSource, channel_ranges: ChannelRanges | None
) -> DataSplits:
    """Split a data set that is open, and check that its samples can be used.

    Args:
        config: name of the data set, and the conversion of its samples.
        source: the stored splits.
        channel_ranges: see `load_data`.

    Raises:
        DataError: its content cannot be used; names the file.
    """
    audio_decoder = AudioRowDecoder(config.audio) if source.modality == "audio" else None
    tensor_decoder = None
    if source.modality == "tensor":
        tensor_decoder = TensorRowDecoder(config, channel_ranges)
    decoder = audio_decoder or tensor_decoder or ImageRowDecoder(config)
    broken = BrokenSampleCollector(config.skip_broken)
    reader = None
    if config.conditions:
        if source.conditions is None:
            raise DataError(
                f"{config.name}: has no columns for data.conditions; drop them, or pass a table"
            )
        reader = read_conditions(config.conditions, source.conditions)
    names = [*config.conditions]
    shape: tuple[int, ...] = ()
    splits: dict[str, Split] = {}
    undecodable: list[str] = []
    stored = _splits_with_held_out(source, config)
    firsts = {
        name: _first_row(rows, f"{config.name} {name} split", source)
        for name, rows in stored.items()
    }
    # Held-out rows are like the first of the stored split, whichever split that is in.
    stored_first = _first_row(source.splits["train"], config.name, source)
    references = {
        name: firsts[name] if name in source.splits and name != "train" else stored_first
        for name in stored
    }
    labelled = config.labels and stored_first.label is not None
    if labelled and references["validation"].label is None:
        raise DataError(
            f"{firsts['validation'].origin}: the validation split has no labels, and training has; "
            "label it, move it elsewhere so that a share of training is held out, or set "
            "data.labels to false"
        )
    for name, rows in stored.items():
        origin = f"{config.name} {name} split"
        # Labels of another split are left out if the training split has none.
        kept = config.labels and (labelled or references[name].label is None)
        rows = LabelCheckedRows(rows, references[name] if kept else None)
        decode = (
            audio_decoder.decode_for_training
            if audio_decoder is not None and name == "train"
            else decoder
        )
        found = _sample_shape(
            rows, decoder, broken, first_only=config.streaming and not config.skip_broken
        )
        if found is None:
            undecodable.append(name)
            continue
        shape = found
        if (
            name == "train"
            and tensor_decoder is not None
            and tensor_decoder.channel_ranges is None
            and tensor_decoder.is_series(stored_first.content)
        ):
            tensor_decoder.measure_channels(rows)
        if reader is not None:
            rows = ConditionedRows(rows, reader)
        if config.streaming and config.skip_broken:
            rows = DecodableRows(rows, decode, broken)
        crop = None if audio_decoder is None else shape[-1]
        splits[name] = (
            StreamingSplit(rows, decode, config.shuffle_buffer, origin, crop, names)
            if config.streaming
            else read_into_memory(rows, decode, origin, broken, crop, names)
        )
    sample_rate = None if audio_decoder is None else audio_decoder.sample_rate
    if source.modality == "tensor" and len(shape) == 2:
        sample_rate = config.audio.sample_rate
    notes = (*source.notes, *broken.raise_or_report(undecodable))
    if source.label_names is not None and config.labels and not labelled:
        notes += ("left out all labels, since the training split has none",)
    if not (dist.is_available() and dist.is_initialized() and dist.get_rank()):  # rank 0 only
        for note in notes:
            warnings.warn(f"{config.name}: {note}", stacklevel=2)
    return DataSplits(
        config=config,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        sample_shape=shape,
        label_names=source.label_names if labelled else None,
        conditions={} if reader is None else reader.known,
        sample_rate=sample_rate,
        channel_ranges=None if tensor_decoder is None else tensor_decoder.channel_ranges,
        channel_names=source.channel_names,
        notes=notes,
    )


def check_data_path(config: DataConfig) -> None:
    """Check that a data set exists locally or may exist on the Hub, before anything is opened.

    Args:
        config: the data set.

    Raises:
        DataError: its name is no existing path, no embedded set and no Hub id.
    """
    path = local_data_path(config.name)
    if (
        config.source is not None
        or config.name in EMBEDDED_SOURCES
        or path.exists()
        or _may_be_on_the_hub(config.name, path)
    ):
        return
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    names = [str(child) for child in beside if not child.name.startswith(".")]
    close = difflib.get_close_matches(str(path), [*names, *EMBEDDED_SOURCES], n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "check the spelling;"
    here = "" if path.is_absolute() else f" in {Path.cwd()}"
    raise DataError(
        f"data path {config.name!r} does not exist{here}; {hint} set data.name to an existing file "
        f'or folder, a Hub id "owner/name", or an embedded set ({", ".join(EMBEDDED_SOURCES)})'
    )


def _may_be_on_the_hub(name: str, path: Path) -> bool:
    # "data/mnits" beside a folder "data" is a mistyped path: do not wait for the Hub's answer.
    """Return whether a name is a Hub id and no local path."""
    return bool(_HUB_ID.fullmatch(name)) and not path.exists() and not path.parent.is_dir()


def _first_row(rows: SplitRows, origin: str, source: DataSource) -> Row:
    """Return the first row of a split.

    Raises:
        DataError: the split has no rows.
    """
    first = next(iter(rows.read()), None)
    if first is None:
        raise DataError(
            f"{origin}: no samples, of {source.splits['train'].size} before train was "
            "split; add some or change data.validation_fraction"
        )
    return first


def _sample_shape(
    rows: SplitRows, decoder: RowDecoder, broken: BrokenSampleCollector, first_only: bool
) -> tuple[int, ...] | None:
    """Return the shape of the first sample that decodes; None if no row decodes.

    Args:
        rows: the rows of the split.
        decoder: decodes a row.
        broken: collects the errors of a split in which no row decodes.
        first_only: give up if the first row does not decode.
    """
    errors = []
    for row in rows.read():
        try:
            return decoder(row).shape
        except BrokenSampleError as error:
            errors.append(error)
            if first_only:
                break
    broken.add(errors)
    return None


def _splits_with_held_out(source: DataSource, config: DataConfig) -> dict[str, SplitRows]:
    """Return the rows of all three splits, holding out of training what the source lacks."""
    train = source.splits["train"]
    missing = [name for name in ("test", "validation") if name not in source.splits]
    hold_outs = [HoldOut(config.validation_fraction, config.split_seed, name) for name in missing]
    held_out = {name: HeldOutRows(train, hold_outs, part) for part, name in enumerate(missing)}
    rest = HeldOutRows(train, hold_outs, len(missing)) if missing else train
    # Training comes first, so that messages about mixed shapes compare with a training image.
    return {"train": rest, **{k: v for k, v in source.splits.items() if k != "train"}, **held_out}


def _open_source(config: DataConfig) -> DataSource:
    """Open an embedded set, a local path or a Hub set by its name."""
    path = local_data_path(config.name)
    if _may_be_on_the_hub(config.name, path):
        return hub_source(config)
    if config.revision is not None:
        raise DataError(
            f"data.revision is {config.revision!r}, but {config.name!r} is not a Hub set; leave "
            'data.revision out, or pass a Hub id "owner/name"'
        )
    if config.name in EMBEDDED_SOURCES:
        return EMBEDDED_SOURCES[config.name]()
    check_data_path(config)
    return _open_local_source(config, path)


def local_data_path(name: str) -> Path:
    """Return a name as a path; `~` is the home folder unless a file has that name.

    Raises:
        DataError: the path cannot be accessed.
    """
    path = Path(name)
    try:
        return path if path.exists() else path.expanduser()
    except RuntimeError:  # there is no such home folder
        return path
    except OSError as error:
        raise DataError(
            f"data path {name!r} cannot be looked at ({error.strerror}); pass an existing file or "
            "folder"
        ) from error


def _open_local_source(config: DataConfig, path: Path) -> DataSource:
    """Open a file of parquet or arrays, or a folder of parquet, images or audio files."""
    if path.is_file() and path.suffix.lower() in ARRAY_SUFFIXES:
        return array_source(config, path)
    if path.is_file() and not is_parquet(path):
        raise DataError(
            f"{path}: not a parquet file; pass a .parquet, .npz or .npy file, or a folder of "
            "parquet, images or sounds"
        )
    if config.subset is not None:
        path = path / config.subset
        if not path.is_dir():
            raise DataError(f"{path}: no such folder; check data.subset")
    return parquet_source(config, path) or folder_source(
        path, config.folder_layout, config.conditions
    )
