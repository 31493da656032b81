"""How large YAML is once it is read: a few lines of aliases stand for more than memory holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

import numpy as np
import yaml

from anytime_ar.errors import InputError

MAX_YAML_VALUES, MAX_YAML_DEPTH = 100_000, 64


def check_yaml_size(path: Path) -> None:
    """Refuse a file of settings that would be too large or too deep, without building it.

    What is no YAML is left to whoever reads it.

    Raises:
        InputError: aliases stand for too much, or for themselves, or values are nested too deeply.
    """
    sizes: dict[str, int] = {}  # values, by the anchor of what holds them
    open_: list[tuple[str | None, int]] = [(None, 0)]  # anchor, and values so far
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
                    f"{path} holds over {MAX_YAML_VALUES:,} values, or {MAX_YAML_DEPTH} within each other, "
                    "aliases counted as what they stand for; write settings without them"
                )
    except yaml.YAMLError:
        return


def check_npy_size(file: IO[bytes], max_bytes: int) -> None:
    """Refuse an array in the .npy format that cannot be in what it comes in.

    Args:
        file: where the array begins; its header is read.
        max_bytes: bytes that there are.

    Raises:
        ValueError: the array says that it is larger, or is none of version 1 of the format.
    """
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not version 1.0 of the .npy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if math.prod(shape) * dtype.itemsize > max_bytes:
        raise ValueError(f"an array of {shape} {dtype} is larger than the file")
