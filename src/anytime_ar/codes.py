"""Check the codes that callers pass, and read and write codes files.

Codes are `int64 [B, k]`, coarse to fine: the first `k` of the `L` codes of each sample, 1 <= k <=
L, with values 0..V-1. `V`, the vocabulary, is one number, or one for each position. A codes file is
an `.npz` archive of two plain arrays, never a pickle. `codes` has the smallest unsigned type that
holds V-1; `header` is a JSON object. Equal codes give equal bytes.

Each row is a sample. If the header has `sound`, the rows are the windows of one long audio file.
"""

from __future__ import annotations

import json
import math
import operator
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.runtime.files import write_atomically
from anytime_ar.runtime.size_limits import check_npy_size
from anytime_ar.runtime.tensors import check_dense

CODES_FORMAT_VERSION = 1
"""Version number of the codes file format."""
Vocabulary = int | tuple[int, ...]
"""V, the number of values of a code: one number for all positions, or one for each of the L."""


class WindowedAudio(Config):
    """The windowing of one long audio file, whose windows are the rows of a codes file."""

    samples: PositiveInt
    """Length of the audio, in samples; silence pads the last window."""
    sample_rate: PositiveInt
    """Sample rate of the audio, in Hz."""
    window: PositiveInt
    """Length of each window, in samples."""
    overlap: NonNegativeInt
    """Samples that a window shares with the next."""
    gain: float = Field(gt=0, allow_inf_nan=False)
    """Factor that the audio was multiplied by before encoding."""


class _CodesHeader(Config):
    """The JSON header of a codes file."""

    format_version: int
    model: str
    code_length: PositiveInt
    vocabulary: PositiveInt | tuple[PositiveInt, ...]
    sound: WindowedAudio | None = None


@dataclass(frozen=True)
class CodesFile:
    """The content of a codes file, as `load_codes` returns it."""

    codes: Tensor
    """Codes int64 [B, k], coarse to fine, with values 0..V-1."""
    model: str
    """Name of the model that encoded them, as given to `save_codes`."""
    code_length: int
    """Code length `L` of that model; k <= L."""
    vocabulary: Vocabulary
    """Its vocabulary `V`."""
    windowed_audio: WindowedAudio | None = None
    """The long audio whose windows the rows are; None: each row is a sample."""

    def __repr__(self) -> str:
        """Return the shape of the codes and the header's values, without the codes."""
        return (
            f"CodesFile(codes=int64 {list(self.codes.shape)}, model={self.model!r}, "
            f"length={self.code_length}, vocabulary={self.vocabulary}, "
            f"sound={self.windowed_audio!r})"
        )


def as_vocabulary(vocabulary: int | Sequence[int], code_length: int) -> Vocabulary:
    """Check the number of values of each code; equal numbers become one.

    Args:
        vocabulary: V, one number for all positions, or one for each.
        code_length: L.

    Raises:
        InputError: the numbers are not as many as codes, or one of them is no positive integer.
    """
    several = vocabulary if isinstance(vocabulary, Sequence) else [vocabulary]
    try:
        sizes = tuple(map(operator.index, several))
    except TypeError:
        sizes = ()
    if isinstance(vocabulary, Sequence) and len(vocabulary) != code_length:
        raise InputError(
            f"{len(vocabulary)} vocabularies were given for {code_length} codes; give one number "
            "for all positions, or one for each"
        )
    if not sizes or min(sizes) < 1:
        raise InputError(
            f"vocabulary {vocabulary!r} is not the number of values of a code; give an integer "
            "from 1 on, or one for each position"
        )
    return sizes[0] if len(set(sizes)) == 1 else sizes


def vocabulary_sizes(vocabulary: Vocabulary, code_length: int) -> tuple[int, ...]:
    """Return the number of values of the code at each of the L positions."""
    return (vocabulary,) * code_length if isinstance(vocabulary, int) else tuple(vocabulary)


def largest_vocabulary(vocabulary: Vocabulary) -> int:
    """Return the number of values of a code, the largest one of all positions."""
    return vocabulary if isinstance(vocabulary, int) else max(vocabulary)


def random_codes(
    vocabulary: Vocabulary, shape: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Draw codes of which all values are equally likely: int64 [B, k].

    Args:
        vocabulary: V.
        shape: (B, k) with 1 <= k <= L.
        generator: on the CPU.
    """
    if isinstance(vocabulary, int):
        return torch.randint(vocabulary, shape, generator=generator)
    sizes = torch.tensor(vocabulary[: shape[1]])
    return (torch.rand(shape, dtype=torch.float64, generator=generator) * sizes).long()


def as_codes(codes: Any) -> Tensor:
    """Return codes as int64, from any integer type and any array library.

    Args:
        codes: a tensor, a NumPy array, or anything that `numpy.asarray` accepts.

    Returns:
        int64, of the same shape; a tensor of another than an integer type is returned unchanged,
        and `check_codes` refuses it.

    Raises:
        InputError: the values are not integers, or the rows differ in length.
    """
    if isinstance(codes, Tensor):
        check_dense("codes", codes)
        if codes.dtype == torch.uint64:
            _check_64_bits(codes.cpu().numpy())
        whole = not codes.is_floating_point() and not codes.is_complex()
        return codes.long() if whole and codes.dtype != torch.bool else codes
    try:
        array = np.asarray(codes)
    except ValueError as error:
        raise InputError(f"codes are no array ({error}); cut all rows to one length") from error
    if array.dtype.kind == "f" and not hasattr(codes, "dtype"):
        # NumPy makes floats of integers that neither int64 nor uint64 holds together.
        _check_64_bits(np.asarray(codes, dtype=object))
    _check_64_bits(array)
    if array.dtype.kind not in "iu":
        raise InputError(f"codes are {array.dtype}; pass whole numbers, as encode returns them")
    # Copy: arrays may be read-only, in another byte order, or reversed.
    return torch.from_numpy(np.array(array, dtype=np.int64, order="C"))


def _check_64_bits(array: np.ndarray) -> None:
    """Raise an error for an integer that int64 cannot hold, and name it."""
    if array.dtype.kind not in "uO" or (
        array.dtype.kind == "u" and (not array.size or array.max() < 2**63)
    ):
        return
    for index, value in np.ndenumerate(array):
        if isinstance(value, int | np.integer) and not -(2**63) <= int(value) < 2**63:
            raise InputError(
                f"code {value} at {list(index)} is out of range; pass codes 0..V-1, as encode "
                "returns them"
            )


def check_codes(codes: Tensor, *, code_length: int, vocabulary: Vocabulary) -> None:
    """Check that a model can decode these codes.

    Args:
        codes: int64 [B, k] with 1 <= k <= `code_length` and values 0..V-1.
        code_length: `L`, the model's code length.
        vocabulary: `V`.

    Raises:
        InputError: type, rank, prefix length or a value is wrong; names the first bad value.
    """
    check_prefix(codes, code_length=code_length)
    one_for_all = vocabulary if isinstance(vocabulary, int) else min(vocabulary)
    if not codes.numel() or 0 <= int(codes.min()) <= int(codes.max()) < one_for_all:
        return
    sizes = vocabulary_sizes(vocabulary, code_length)[: codes.shape[1]]
    limits = torch.tensor(sizes, device=codes.device)
    for row, position in ((codes < 0) | (codes >= limits)).nonzero().tolist():
        here = "" if isinstance(vocabulary, int) else " here"
        raise InputError(
            f"code {int(codes[row, position])} at row {row}, position {position} is out of range; "
            f"this model's codes are 0..{sizes[position] - 1}{here}"
        )


def check_prefix(codes: Tensor, *, code_length: int) -> None:
    """Check type, rank and prefix length of codes, but not their values; see `check_codes`.

    Args:
        codes: int64 [B, k] with 1 <= k <= `code_length`.
        code_length: `L`, the model's code length.

    Raises:
        InputError: type, rank or prefix length is wrong.
    """
    if codes.dtype != torch.int64:
        raise InputError(f"codes are {codes.dtype}; pass torch.int64, as encode returns them")
    if codes.ndim != 2:
        raise InputError(f"codes have shape {list(codes.shape)}; pass [B, k], one row per sample")
    prefix = codes.shape[1]
    if prefix == 0:
        raise InputError(f"prefix 0 holds no code; pass 1 <= k <= {code_length}")
    if prefix > code_length:
        raise InputError(
            f"prefix {prefix} exceeds code length {code_length}; pass k <= {code_length}"
        )


def bits(k: int, vocabulary: Vocabulary) -> float:
    """Return the bits that `k` codes carry, `k log2 V`, if all `V` values are equally likely.

    If each position has a vocabulary of its own, this is the sum of the first `k` logarithms.
    """
    if isinstance(vocabulary, int):
        return k * math.log2(vocabulary)
    return sum(map(math.log2, vocabulary[:k]))


def save_codes(
    path: Path | str,
    codes: Tensor,
    *,
    model: str,
    code_length: int,
    vocabulary: Vocabulary,
    windowed_audio: WindowedAudio | None = None,
) -> None:
    """Write codes to a file atomically.

    Args:
        path: the file, `*.npz` by custom.
        codes: int64 [B, k], 1 <= k <= `code_length`, on any device.
        model: name of the model that encoded them.
        code_length: `L`, the model's code length.
        vocabulary: `V`, the vocabulary of that model.
        windowed_audio: the long audio whose windows the rows are; None: each row is a sample.

    Raises:
        InputError: the codes do not fit `code_length` and `vocabulary`, or `path` is not writable.
    """
    vocabulary = as_vocabulary(vocabulary, code_length)
    check_codes(codes, code_length=code_length, vocabulary=vocabulary)
    header = _CodesHeader(
        format_version=CODES_FORMAT_VERSION,
        model=model,
        code_length=code_length,
        vocabulary=vocabulary,
        sound=windowed_audio,
    )
    packed = (
        codes.cpu().numpy().astype(np.min_scalar_type(largest_vocabulary(vocabulary) - 1))
    )  # unsigned [B, k]
    text = np.array(header.model_dump_json(exclude_none=True))
    write_atomically(path, lambda file: np.savez(file, codes=packed, header=text))


def load_codes(path: Path | str) -> CodesFile:
    """Read a codes file that `save_codes` wrote.

    Args:
        path: the file to read.

    Raises:
        InputError: the file is missing, truncated, altered, of another kind, or of another version.
    """
    packed, text = _read_arrays(Path(path))
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no codes file: its header is not JSON") from error
    if not isinstance(values, dict) or "format_version" not in values:
        raise InputError(f"{path} is no codes file: its header has no format_version")
    if values["format_version"] != CODES_FORMAT_VERSION:
        raise InputError(
            f"{path} has codes format version {values['format_version']!r}, and this anytime-ar "
            f"reads {CODES_FORMAT_VERSION}; read it with the version that wrote it"
        )
    header = _CodesHeader.parse(values, origin=f"{path}, header")
    codes = torch.from_numpy(packed.astype(np.int64))  # [B, k]
    try:
        vocabulary = as_vocabulary(header.vocabulary, header.code_length)
        check_codes(codes, code_length=header.code_length, vocabulary=vocabulary)
    except InputError as error:
        raise InputError(f"{path} contradicts its own header: {error}") from error
    return CodesFile(codes, header.model, header.code_length, vocabulary, header.sound)


def _read_arrays(path: Path) -> tuple[np.ndarray, str]:
    """Return the arrays of the archive: unsigned codes and header text. Never open a pickle.

    Raises:
        InputError: the file is missing, truncated, damaged or not a codes file.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(
                    f"{path} is no codes file, or is cut short; write one with `anytime encode`"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                if set(archive.files) != {"codes", "header"}:
                    raise InputError(
                        f"{path} is no codes file: it holds {sorted(archive.files)}, "
                        "not codes and header"
                    )
                _check_claimed_sizes(archive.zip, path.stat().st_size)
                packed, header = archive["codes"], archive["header"]
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; pass a codes file") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}); encode again") from error
    if packed.dtype.kind != "u" or header.dtype.kind != "U" or header.ndim != 0:
        raise InputError(f"{path} is no codes file: {packed.dtype} codes, {header.dtype} header")
    return packed, str(header)


def _check_claimed_sizes(archive: zipfile.ZipFile | None, max_bytes: int) -> None:
    """Check the declared sizes of all arrays against the file, before memory is allocated.

    Args:
        archive: the open archive.
        max_bytes: size of the file, in bytes.

    Raises:
        ValueError: an array is larger than the file; names it.
    """
    assert archive is not None
    for entry in archive.infolist():
        if entry.file_size > max_bytes:
            raise ValueError(
                f"{entry.filename} of {entry.file_size:,} bytes is larger than the file"
            )
        with archive.open(entry) as member:
            check_npy_size(member, max_bytes)
