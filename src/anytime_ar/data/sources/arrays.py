"""Open files of NumPy arrays: series, images or sounds, one array for each split."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anytime_ar.data.config import DataConfig
from anytime_ar.data.rows import DataSource
from anytime_ar.data.sources import canonical_split
from anytime_ar.data.sources.objects import object_source
from anytime_ar.errors import DataError

ARRAY_SUFFIXES = (".npz", ".npy")
"""Suffixes of files of arrays."""
_LABELS = "_labels"
"""End of the name of the array with the labels of a split."""


def array_source(config: DataConfig, path: Path) -> DataSource:
    """Open a file of arrays.

    An `.npy` file holds the samples [N, ...] of the training split. An `.npz` file holds an array
    for each split, `train` among them, and labels [N] in `train_labels` and so on.

    Args:
        config: the data set.
        path: the file.

    Raises:
        DataError: the file cannot be read, or the names of its arrays are no splits.
    """
    try:
        with path.open("rb") as file:
            opened: Any = np.load(file, allow_pickle=False)
            arrays = {"train": opened} if isinstance(opened, np.ndarray) else dict(opened)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: does not read as arrays of numbers ({error}); save it again with numpy.savez"
        ) from error
    splits: dict[str, npt.NDArray[Any] | tuple[npt.NDArray[Any], Any]] = {}
    for name, array in arrays.items():
        split = name.removesuffix(_LABELS)
        if canonical_split(split) is None or split not in arrays:
            raise DataError(
                f"{path}: has an array {name!r}; name arrays train, validation and test, and their "
                f"labels train{_LABELS} and so on"
            )
        if split != name:
            continue
        if array.ndim < 2:
            raise DataError(f"{path}: {name} has shape {list(array.shape)}; store [N, C, T]")
        labels = arrays.get(name + _LABELS)
        splits[name] = array if labels is None else (array, labels)
    return object_source(config, splits)
