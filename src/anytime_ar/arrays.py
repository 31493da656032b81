"""How large arrays in files of numpy say they are, which takes memory before they are read."""

from __future__ import annotations

import math
from typing import IO

import numpy as np


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
