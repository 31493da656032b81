"""Limit the size of files once they are read: a few lines of YAML aliases can exceed all memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

import numpy as np
import yaml

from anytime_ar.errors import InputError

MAX_YAML_VALUES, MAX_YAML_DEPTH = 100_000, 64
"""Largest number of values in a YAML file, and deepest nesting, with aliases expanded."""


def check_yaml_size(path: Path) -> None:
    """Check that a YAML file is not too large or too deep, without building its content.

    A file that is not YAML is left to its reader.

    Args:
        path: the file to check.

    Raises:
        InputError: aliases expand to too many values or to themselves, or values are nested too
            deeply.
    """
    sizes: dict[str, int] = {}  # number of values of each anchored node
    open_: list[tuple[str | None, int]] = [(None, 0)]  # anchor, values so far
    try:
        for event in yaml.parse(path.read_bytes(), Loader=yaml.SafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                open_.append((event.anchor, 1))
                size = 0
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, size = open_.pop()
                if anchor is not None:
                    sizes[anchor] = size
            elif isinstance(event, yaml.AliasEvent):
                size = sizes.get(event.anchor or "", MAX_YAML_VALUES + 1)
            elif isinstance(event, yaml.ScalarEvent):
                size = 1
                if event.anchor is not None:
                    sizes[event.anchor] = size
            else:
                continue
            anchor, before = open_[-1]
            open_[-1] = anchor, before + size
            if before + size > MAX_YAML_VALUES or len(open_) > MAX_YAML_DEPTH:
                raise InputError(
                    f"{path} holds over {MAX_YAML_VALUES:,} values, or {MAX_YAML_DEPTH} within "
                    "each other, aliases counted as what they stand for; write settings without "
                    "them"
                )
    except yaml.YAMLError:
        return


def check_npy_size(file: IO[bytes], max_bytes: int) -> None:
    """Check that an array in the .npy format is not larger than its file.

    Args:
        file: a handle at the start of the array; its header is read.
        max_bytes: size of the file, in bytes.

    Raises:
        ValueError: the declared array is larger, or not in version 1.0 of the format.
    """
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not version 1.0 of the .npy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if math.prod(shape) * dtype.itemsize > max_bytes:
        raise ValueError(f"an array of {shape} {dtype} is larger than the file")
