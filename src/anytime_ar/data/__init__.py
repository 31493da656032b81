"""Images and sounds as batches of float32 in [-1, 1]: digits, Hub sets, parquet, folders."""

from anytime_ar.data.ahead import ReadAhead
from anytime_ar.data.augmentation import AugmentationConfig
from anytime_ar.data.batch import Batch
from anytime_ar.data.config import DataConfig
from anytime_ar.data.loading import DataSplits, check_data_path, load_data
from anytime_ar.data.parts import WHOLE, Part
from anytime_ar.data.pictures import image_grid, read_image, write_image
from anytime_ar.data.recordings import Recording, write_recording
from anytime_ar.data.sample_files import picture_files, sound_files
from anytime_ar.data.shuffling import ShuffledBatches
from anytime_ar.data.sounds import peak_gain
from anytime_ar.data.splits import Split
from anytime_ar.data.suffixes import IMAGE_SUFFIXES

__all__ = [
    "IMAGE_SUFFIXES",
    "WHOLE",
    "AugmentationConfig",
    "Batch",
    "DataConfig",
    "DataSplits",
    "Part",
    "ReadAhead",
    "Recording",
    "ShuffledBatches",
    "Split",
    "check_data_path",
    "image_grid",
    "load_data",
    "peak_gain",
    "picture_files",
    "read_image",
    "sound_files",
    "write_image",
    "write_recording",
]
