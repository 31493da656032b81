"""What to read and how to bring it to one shape."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from anytime_ar.config import Config
from anytime_ar.media.formats import Background

FolderLayout = Literal["auto", "splits", "classes"]
"""What the sub-folders of a folder are."""


class AudioConfig(Config):
    """The steps from stored sounds to mono clips of one rate and length."""

    key: str | None = None
    """Column that holds the sound; found from the column types when not given."""
    sample_rate: int | None = Field(default=None, ge=1000, le=192_000)
    """Resample to this many Hz; when not given, all clips must have the same rate."""
    seconds: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    """Longer clips are cut after so long, shorter ones end in silence."""
    max_stored_seconds: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """So much of a longer clip is kept for training, which cuts `seconds` from it at random; when
    not given, its first `seconds` are all that is seen of it."""
    length_multiple: int = Field(default=64, ge=1)
    """Round the length up to a whole multiple of this many samples, for networks that halve it."""
    normalize: Literal["peak", "none"] = "peak"
    """Scale every clip to the same peak, or leave it as it is."""


class DataConfig(Config):
    """A data set by name, and the steps from what is stored to samples of one shape: square
    images, or sounds of one length."""

    name: str = Field(default="digits", min_length=1)
    """`digits` (8x8 images of scikit-learn, embedded); `sounds` (plucked strings and vowels of at
    most 0.5 s at 8 kHz, made on the spot); a Hub id `owner/name`; a parquet file or folder in the
    Hugging Face layout; or a folder of images or sounds whose sub-folders are the classes (a folder
    that is called as an embedded set is: `./sounds`)."""
    subset: str | None = None
    """Configuration name of a Hub set; of a local set, the sub-folder to read."""
    revision: str | None = None
    """Branch, tag or commit of a Hub set."""
    folder_layout: FolderLayout = "auto"
    """What the sub-folders of a folder are: `splits` (train, validation, test), or `classes`;
    `auto` tells by their names, and asks where they may be either."""
    image_key: str | None = None
    """Column that holds the image; found from the column types when not given."""
    label_key: str | None = None
    """Column that holds the label: classes, integers, or (named here) strings; found from the
    column types when not given. Null, NaN and -1 mean that there is none, which holds for all or
    none of a split."""
    labels: bool = True
    """Whether labels are read; false leaves them out."""
    background: Background = "auto"
    """What transparent pixels are laid over; `auto`: white, or black where what is drawn would be
    lost on white. Pixels are read as stored: no colour profile is applied, and of several frames
    or pages the first is read."""
    center_crop: int | None = Field(default=None, ge=1)
    """Side in pixels of the centred square kept before resizing. The usual CelebA at 64x64 is
    `center_crop: 140` (178 keeps the full width) with `size: 64`."""
    size: int | None = Field(default=None, ge=1)
    """Resize to this many pixels a side; without `center_crop`, the largest centred square is."""
    channels: Literal[1, 3] | None = None
    """Convert to grayscale (1) or RGB (3); as stored when not given."""
    audio: AudioConfig = AudioConfig()
    """Where the set holds sounds."""
    skip_broken: bool = False
    """Leave out samples that do not decode, rather than refuse the set; how many is told once. When
    streaming, all of the set is decoded once at the start to find them."""
    validation_fraction: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of the training split that is held out where the source has no validation split, and
    (drawn first) where it has no test split."""
    split_seed: int = 0
    """Seed of the held-out choice."""
    streaming: bool = False
    """Read from disk or the Hub while training, for sets larger than memory."""
    shuffle_buffer: int = Field(default=8192, ge=1)
    """When streaming: samples held in memory and shuffled together, block after block. A set stored
    sorted by class needs a buffer that spans many classes."""
