"""Load images and audio as float32 batches in [-1, 1]: the Hub, parquet, folders, embedded sets."""

from anytime_ar.data.augmentation import AugmentationConfig
from anytime_ar.data.batches import Batch, Prefetcher, ShuffledBatches
from anytime_ar.data.config import DataConfig
from anytime_ar.data.loading import DataSplits, check_data_path, load_data
from anytime_ar.data.splits import Split
from anytime_ar.legacy import warn_renamed
from anytime_ar.media.audio import AudioFile, encode_audio, peak_gain, write_audio
from anytime_ar.media.formats import WRITABLE_IMAGE_SUFFIXES
from anytime_ar.media.image import encode_images, read_image, write_image
from anytime_ar.media.sheets import image_grid
from anytime_ar.runtime.distributed import FULL_BATCH, BatchShard

__all__ = [
    "FULL_BATCH",
    "WRITABLE_IMAGE_SUFFIXES",
    "AudioFile",
    "AugmentationConfig",
    "Batch",
    "BatchShard",
    "DataConfig",
    "DataSplits",
    "Prefetcher",
    "ShuffledBatches",
    "Split",
    "check_data_path",
    "encode_audio",
    "encode_images",
    "image_grid",
    "load_data",
    "peak_gain",
    "read_image",
    "write_audio",
    "write_image",
]


def __getattr__(name: str) -> object:
    """Return a public class by its name of version 0.1.

    Raises:
        AttributeError: there was no such name.
    """
    if name != "Recording":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed("anytime_ar.data.Recording", "anytime_ar.data.AudioFile")
    return AudioFile
