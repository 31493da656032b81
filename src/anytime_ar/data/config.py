"""Configure which data set to read, and how to convert its samples to one shape."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from anytime_ar.config import Config
from anytime_ar.data.conditions import ConditionColumn
from anytime_ar.media.formats import Background
from anytime_ar.plugins import PartConfig

FolderLayout = Literal["auto", "splits", "classes"]
"""Meaning of a folder's sub-folders: splits, classes, or decided by their names."""

_MAX_SECONDS = 86_400.0
"""Longest clip, in seconds: a day."""


class AudioConfig(Config):
    """The conversion of stored audio to clips of one sample rate and length."""

    key: str | None = None
    """Column that holds the audio; found from the column types when not given."""
    sample_rate: int | None = Field(default=None, ge=1000, le=192_000)
    """Sample rate in Hz to resample to; when not given, all clips must have the same rate."""
    channels: int = Field(default=1, ge=1, le=8)
    """Number of channels of a clip. 1 averages the channels of a file; with more, files have as
    many, and mono files the same in each."""
    seconds: float = Field(default=1.0, gt=0.0, le=_MAX_SECONDS, allow_inf_nan=False)
    """Length of a clip in seconds. Longer clips are cropped, shorter ones are padded with
    silence."""
    max_stored_seconds: float | None = Field(
        default=None, gt=0.0, le=_MAX_SECONDS, allow_inf_nan=False
    )
    """Seconds of a longer clip to store for training, which crops `seconds` from them at random.
    When not given, only its first `seconds` are used."""
    length_multiple: int = Field(default=64, ge=1, le=2**20)
    """Round the clip length up to a multiple of this many samples, for networks that halve it."""
    normalize: Literal["peak", "none"] = "peak"
    """`peak`: scale every clip to the same peak. `none`: leave the level as it is."""


class DataConfig(Config):
    """The data set to read, and the conversion of its samples to images or clips of one size."""

    name: str = Field(default="digits", min_length=1)
    """`digits`: 8x8 images of scikit-learn, embedded. `sounds`: synthetic plucked strings and
    vowels of at most 0.5 s at 8 kHz. Otherwise a Hub id `owner/name`, a parquet file or folder in
    the Hugging Face layout, a file of arrays (.npz, .npy), or a folder of images or audio files.
    The sub-folders of such a folder are the classes. Write `./sounds` for a folder that has the
    name of an embedded set."""
    source: PartConfig | None = None
    """Import path and arguments of a function that returns the data set, in place of `name`: what
    `anytime_ar.train` takes as `data`, such as tensors or a `Dataset`."""
    subset: str | None = None
    """Configuration name of a Hub set; for a local set, the sub-folder to read."""
    revision: str | None = None
    """Branch, tag or commit of a Hub set."""
    folder_layout: FolderLayout = "auto"
    """Meaning of a folder's sub-folders: `splits` (train, validation, test) or `classes`. `auto`
    decides by their names, and refuses a folder where both are possible."""
    image_key: str | None = None
    """Column that holds the image; found from the column types when not given."""
    label_key: str | None = None
    """Column that holds the label: classes, integers, or strings if you name the column here. Found
    from the column types when not given. Null, NaN and -1 mean no label; a split must have labels
    for all of its samples or for none."""
    series_keys: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Columns that hold the channels of series: in each row a list of numbers, or one column with a
    list for each channel. All columns with lists of floats when not given."""
    labels: bool = True
    """Whether to read labels; false leaves them out."""
    conditions: dict[str, ConditionColumn] = Field(default_factory=dict)
    """What samples are conditioned on beside their label, by name: columns of a table or of
    `metadata.csv` beside the files of a folder."""
    background: Background = "auto"
    """Colour behind transparent pixels, unless `channels` is 4. `auto` is white, or black for an
    image that would be invisible on white. Pixels are read as stored: no colour profile is applied,
    and only the first frame or page is read."""
    center_crop: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Size in pixels of the central rectangle to crop before resizing: the side of a square, or
    `[height, width]`. The usual CelebA at 64x64 is `center_crop: 140` (178 is the full width) with
    `size: 64`."""
    size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Size in pixels to resize to: the side of a square, or `[height, width]`. Without
    `center_crop`, the largest central rectangle of these proportions is resized."""
    channels: Literal[1, 3, 4] | None = None
    """Convert to grayscale (1), RGB (3), or RGBA (4), which keeps transparency. Grayscale or RGB as
    stored when not given."""
    audio: AudioConfig = AudioConfig()
    """Conversion of clips, for a set that holds audio."""
    skip_broken: bool = False
    """Leave out samples that do not decode, instead of refusing the set; one warning says how many.
    With streaming, the whole set is decoded once at the start to find them."""
    validation_fraction: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of the training split that is held out where the source has no validation split. A
    missing test split is held out first, with the same share."""
    split_seed: int = 0
    """Seed that selects the held-out samples."""
    streaming: bool = False
    """Read from disk or the Hub during training, for sets larger than memory."""
    shuffle_buffer: int = Field(default=8192, ge=1)
    """With streaming: samples in memory that are shuffled together, block after block. A set sorted
    by class needs a buffer that spans many classes."""
